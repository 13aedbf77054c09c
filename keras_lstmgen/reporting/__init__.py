"""What the library reports: messages and progress for the program that uses it, and plots.

Tables and the terminal belong to ``cli``. Modules here compute no results.
"""
