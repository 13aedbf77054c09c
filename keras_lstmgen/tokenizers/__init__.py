"""Conversion of text to ids and back with SentencePiece, and the training of a vocabulary.

Files of ids belong to ``data``.
"""
