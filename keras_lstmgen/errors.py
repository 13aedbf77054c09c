"""What is told to the person at the keyboard when something they gave cannot be used."""


class UserError(Exception):
    """One clear line: what is wrong, where (file, line, byte, key) and what to do. Exit status 2."""


def visible(text: str) -> str:
    """The text with an escape in the place of each character that a terminal would obey, or cannot show.

    ``visible("a\\nb\\x1b[2J")`` is ``"a\\\\nb\\\\x1b[2J"``: what a file is called or says cannot act on a screen.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class Terminated(BaseException):
    """SIGTERM asked to end; what there was to save is saved. The message, if any, says how to go on. Status 143."""
