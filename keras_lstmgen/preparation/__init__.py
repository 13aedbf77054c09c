"""Prepare a large corpus in parallel with Apache Beam, which the extra ``beam`` installs.

The module ``data.prepared_corpus`` reads the result.
"""
