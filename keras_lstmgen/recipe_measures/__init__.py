"""Compute measures that only one recipe of ``pipelines/`` uses.

``evaluation.metric_registry`` registers them by name. The package ``evaluation`` contains the other measures.
"""
