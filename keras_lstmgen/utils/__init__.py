"""Helpers that every package may import: errors for users, parsing of numbers, and imports of optional packages.

Code that reads files, changes the process or prints does not belong here.
"""
