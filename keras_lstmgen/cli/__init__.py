"""The command line: options, verbs, and exit statuses.

Only modules of this package read ``sys.argv``, print, or install signal handlers.
"""
