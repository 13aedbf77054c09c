"""Evaluate models: likelihood of text, metrics of generated text, and baselines without a neural network.

The modules of this package return values and do not print.
"""
