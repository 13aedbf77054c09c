"""Report messages and progress to the program that uses the library, and draw plots.

Tables and terminal output belong to ``cli``. Modules in this package do not compute results.
"""
