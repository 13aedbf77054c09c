"""Read, split, tokenize, cache and batch a corpus.

No module of this package needs a model. The batches are ``tf.data.Dataset`` objects.
"""
