"""Build the Keras model of a recipe, compute one inference step, and load and save runs.

The package ``layers`` contains the layers of the model. The package ``training`` trains it.
"""
