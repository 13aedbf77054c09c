"""Start and synchronize the worker processes of data-parallel training, on one machine or on several.

Code that prepares a corpus in parallel belongs to ``preparation``.
"""
