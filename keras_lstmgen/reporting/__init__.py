"""What people look at: tables, progress bars, hints and plots.

Modules here format values; they compute none.
"""
