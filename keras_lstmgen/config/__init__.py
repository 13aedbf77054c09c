"""The recipe: its fields, the TOML file, the check of every value, and sizes chosen from the corpus.

Whatever reads a corpus or builds a model does not belong here.
"""
