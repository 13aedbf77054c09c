"""Keras layers: LSTM with its native kernel, attention, pointer-generator, ensemble, regularization.

Whole models are built in ``models``.
"""
