"""Error messages for users, and numbers in text; every package may import these modules.

Code that touches files, the system or the screen does not belong here.
"""
