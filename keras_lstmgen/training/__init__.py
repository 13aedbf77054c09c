"""Train a model with ``model.fit``: input pipeline, loss, optimizer, callbacks, checkpoints.

Modules here know nothing of the command line.
"""
