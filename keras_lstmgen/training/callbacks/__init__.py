"""Keras callbacks of a training: limits, learning rate, validation, checkpoints, samples and logs for TensorBoard.

The call of ``model.fit`` and the order of the callbacks belong in ``training/loop.py``.
"""
