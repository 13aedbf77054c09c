"""Results and progress as people see them on the terminal: reports, hints, and the screen of a training.

The selection of options belongs to ``cli.verbs``; modules here compute no results.
"""
