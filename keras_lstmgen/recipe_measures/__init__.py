"""Compute measures that only one recipe of ``pipelines/`` uses.

``evaluation.metric_registry`` registers these measures by name. The package ``evaluation`` contains the other measures.
"""
