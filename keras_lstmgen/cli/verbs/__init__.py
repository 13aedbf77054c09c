"""Run the verbs of the command line. Each verb has a module that reads the arguments and calls the library.

The definition of options belongs to ``cli.options``. Computation belongs to the packages below ``cli``.
"""
