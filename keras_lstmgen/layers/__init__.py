"""Keras layers: LSTM with a native kernel, output layers, attention, pointer-generator, ensemble, regularization.

The package ``models`` builds models with these layers.
"""
