"""Local and remote files: atomic writes, names, folders, and formats that are not plain text.

The content of a corpus is read in ``data``.
"""
