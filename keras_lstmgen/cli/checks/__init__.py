"""Validate the arguments of the verbs.

The modules of ``cli.verbs`` run the verbs.
"""
