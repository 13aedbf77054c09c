"""Measures that belong to a single recipe of ``pipelines/``; ``evaluation.measures`` registers them by name.

Measures that several recipes use belong to ``evaluation``.
"""
