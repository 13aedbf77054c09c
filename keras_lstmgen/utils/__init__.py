"""Error messages for users, numbers in text, and imports of optional packages; every package may import these modules.

Code that touches files, the system or the screen does not belong here.
"""
