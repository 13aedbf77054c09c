"""What is told to the person at the keyboard when something they gave cannot be used."""


class UserError(Exception):
    """One clear line: what is wrong, where (file, line, byte, key) and what to do. Exit status 2."""


class Terminated(BaseException):
    """SIGTERM asked to end; what there was to save is saved. The message, if any, says how to go on. Status 143."""
