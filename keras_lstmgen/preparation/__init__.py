"""Parallel preparation of a large corpus with Apache Beam; the extra ``beam`` installs it.

Corpora prepared this way are read in ``data``.
"""
