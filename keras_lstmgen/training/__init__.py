"""Train a model with ``model.fit``: input pipeline, losses, optimizer, callbacks and checkpoints.

The modules of this package do not depend on the command line.
"""
