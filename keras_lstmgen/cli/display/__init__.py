"""Print results and progress on the terminal: reports, hints, and the progress of a training.

Code that reads options belongs to ``cli.verbs``. Modules in this package do not compute results.
"""
