"""Encode and decode text with SentencePiece, and train vocabularies.

The package ``data`` stores the ids of a corpus in files.
"""
