"""The corpus: source files, documents, splits, ids on disk, and batches as ``tf.data.Dataset``.

Everything here works without a model.
"""
