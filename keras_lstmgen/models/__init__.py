"""Build the Keras model of a recipe, compute inference steps, and create and load runs.

The package ``layers`` contains the layers of the model. The package ``training`` trains the model.
"""
