"""Inspect the state of an LSTM: record gate activations, search for interpretable cells, and write HTML pages.

The package ``evaluation`` measures the quality of a model.
"""
