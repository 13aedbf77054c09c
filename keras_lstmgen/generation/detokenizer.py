"""Incremental conversion of ids to text: holds back incomplete characters and possible stop strings."""

import codecs
from collections.abc import Sequence

from keras_lstmgen.tokenizers.tokenizer import BYTE_BY_BYTE, Tokenizer


class Detokenizer:
    """Converts the ids of one text to characters as soon as they can no longer change.

    Attributes:
        stopped: whether a stop string has occurred.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """Start an empty text.

        Args:
            tokenizer: tokenizer of the model.
            stop: strings that end the text; empty strings are ignored.
        """
        self.stopped = False
        self._bytes = tokenizer.piece_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(BYTE_BY_BYTE)
        self._stop = [word for word in stop if word]
        self._pending = ""

    def push(self, token: int) -> str:
        """Add a token and return the text that is now certain, without any stop string."""
        new = self._bytes(token)
        # A token without bytes is a special symbol. An incomplete character before it stays incomplete.
        return self._release(self._decoder.decode(new, final=not new), final=False)

    def flush(self) -> str:
        """End the text and return the characters that were held back."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, new: str, final: bool) -> str:
        """Add characters and return those that can no longer become part of a stop string."""
        pending = self._pending + new
        ends = [pending.find(word) for word in self._stop if word in pending]
        if ends:
            self.stopped, self._pending = True, ""
            return pending[: min(ends)]
        certain = len(pending) - (0 if final else self._partial_match(pending))
        self._pending = pending[certain:]
        return pending[:certain]

    def _partial_match(self, text: str) -> int:
        """Return the length of the longest suffix of ``text`` that is a prefix of a stop string."""
        longest = max((len(word) - 1 for word in self._stop), default=0)
        sizes = range(min(longest, len(text)), 0, -1)
        return next((n for n in sizes if any(word.startswith(text[-n:]) for word in self._stop)), 0)


def last_characters(tokenizer: Tokenizer, tokens: Sequence[int], size: int) -> str:
    """Decode only the end of a text.

    Args:
        tokenizer: tokenizer of the model.
        tokens: ids of the text, each of one byte or more.
        size: minimum number of bytes to decode.

    Returns:
        The last characters of the text, of at least ``size`` bytes if the text has so many.
    """
    start = max(len(tokens) - size, 0)
    while start and b"\x80" <= tokenizer.piece_bytes(tokens[start])[:1] < b"\xc0":  # a UTF-8 continuation byte
        start -= 1
    return tokenizer.decode(tokens[start:])
