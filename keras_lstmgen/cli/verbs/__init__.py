"""The verbs of the command line, one module per verb: read the arguments, call the library, print its result.

The definition of options belongs to ``cli.options``; computation belongs to the packages below ``cli``.
"""
