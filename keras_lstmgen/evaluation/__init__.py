"""Measure a model: likelihood, metrics of generated text, and baselines without a neural network.

Modules here compute values and print nothing.
"""
