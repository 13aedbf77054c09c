"""Convert tokens one by one to text, for pages and for labels of pictures."""

from collections.abc import Iterable

from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.tokenizers.tokenizer import Tokenizer

SIGNS = {"\n": "↵", " ": "␣"}


def parts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Return the text that each token completes.

    A character that consists of several byte tokens belongs to the last of them. An end symbol is an empty line.

    Args:
        tokenizer: tokenizer of the ids.
        ids: N ids.

    Returns:
        N texts. Joined, they are the decoded text.
    """
    detokenizer = Detokenizer(tokenizer)
    texts = [detokenizer.push(token) + ("\n\n" if token == tokenizer.end_id else "") for token in ids]
    return [*texts[:-1], texts[-1] + detokenizer.flush()]


def labels(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Return a visible label of each token: the text that it completes, or if there is none, its vocabulary entry."""
    detokenizer = Detokenizer(tokenizer)
    return [visible(detokenizer.push(token)) or tokenizer.piece(token) for token in ids]


def visible(text: str) -> str:
    r"""Replace newlines and spaces by signs, and other characters that cannot be printed by escape sequences.

    >>> from keras_lstmgen.interpret.token_texts import visible
    >>> visible("a b\n")
    'a␣b↵'
    >>> visible("\x1b") == r"\x1b"
    True
    """
    return "".join(SIGNS.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in text)
