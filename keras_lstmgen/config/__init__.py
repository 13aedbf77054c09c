"""Recipes: their fields, TOML files, validation, and default sizes selected by the corpus.

Code that reads a corpus or builds a model does not belong here.
"""
