"""Measures that belong to a single recipe of ``pipelines/``; ``evaluation.metric_registry`` registers them by name.

Measures that several recipes use belong to ``evaluation``.
"""
