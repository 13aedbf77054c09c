"""What is told to the person at the keyboard when something they gave cannot be used."""


class UserError(Exception):
    """One clear line: what is wrong, where (file, line, byte, key) and what to do. Exit status 2."""
