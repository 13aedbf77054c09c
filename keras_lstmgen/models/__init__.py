"""Build the Keras model from a recipe, compute one inference step, and load and save a run.

Layers belong to ``layers``, the optimization to ``training``.
"""
