"""Define, read and check recipes, and select default values from the size of the corpus.

Code that reads a corpus or builds a model does not belong here.
"""
