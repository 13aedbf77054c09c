"""Implement the command line: parse options, run a verb, print its results, and return an exit status.

The other packages do not read ``sys.argv``, do not print, and do not install signal handlers.
"""
