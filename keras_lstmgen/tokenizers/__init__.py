"""Tokenizers: encode and decode text with SentencePiece, and train vocabularies.

Files of ids belong to ``data``.
"""
