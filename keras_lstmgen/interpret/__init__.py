"""Show what the state of an LSTM holds: gate activations, probes, HTML pages.

The quality of a model is measured in ``evaluation``.
"""
