"""Data-parallel training with several processes on one or several machines.

Parallel preparation of a corpus belongs to ``preparation``.
"""
