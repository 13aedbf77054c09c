"""Convert tokens to text one by one, for HTML pages and for the labels in pictures."""

from collections.abc import Iterable

from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.tokenizers.tokenizer import Tokenizer

SIGNS = {"\n": "↵", " ": "␣"}


def parts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Return the text of each token.

    If several byte tokens encode one character, the text of the last of these tokens is the character, and the texts of
    the others are empty. The text of an end symbol is an empty line.

    Args:
        tokenizer: tokenizer of the ids.
        ids: N token ids.

    Returns:
        N texts. Their concatenation is the decoded text with an empty line for each end symbol.
    """
    detokenizer = Detokenizer(tokenizer)
    texts = [detokenizer.push(token) + ("\n\n" if token == tokenizer.end_id else "") for token in ids]
    return [*texts[:-1], texts[-1] + detokenizer.flush()]


def labels(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """For each token, return a visible label: its text, or its name in the vocabulary if the text is empty."""
    detokenizer = Detokenizer(tokenizer)
    return [visible(detokenizer.push(token)) or tokenizer.piece(token) for token in ids]


def visible(text: str) -> str:
    r"""Replace newlines and spaces by visible signs, and other invisible characters by escape sequences.

    >>> from keras_lstmgen.interpret.token_texts import visible
    >>> visible("a b\n")
    'a␣b↵'
    >>> visible("\x1b") == r"\x1b"
    True
    """
    return "".join(SIGNS.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in text)
