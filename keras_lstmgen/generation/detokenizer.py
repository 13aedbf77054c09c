"""Convert ids to text during the generation. The text contains no incomplete characters and no stop strings."""

import codecs
from collections.abc import Sequence

from keras_lstmgen.tokenizers.tokenizer import BYTE_BY_BYTE, Tokenizer


class Detokenizer:
    """Convert the ids of one text to characters, one id at a time.

    The detokenizer returns a character only when the character is final. It holds back the bytes of an incomplete
    character, and the characters that may be the beginning of a stop string.

    Attributes:
        stopped: whether the text has reached a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """Start an empty text.

        Args:
            tokenizer: tokenizer of the model.
            stop: strings that end the text. Empty strings are ignored.
        """
        self.stopped = False
        self._bytes = tokenizer.piece_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(BYTE_BY_BYTE)
        self._stop = [word for word in stop if word]
        self._pending = ""

    def push(self, token: int) -> str:
        """Add a token, and return the characters that are final now. They do not include a stop string."""
        new = self._bytes(token)
        # A token without bytes is a special symbol. A character cannot continue after a special symbol, so the decoder
        # ends an incomplete character here.
        return self._release(self._decoder.decode(new, final=not new), final=False)

    def flush(self) -> str:
        """End the text, and return the characters that were held back."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, new: str, final: bool) -> str:
        """Append new characters to those held back, and return the characters that cannot begin a stop string.

        The other characters stay held back. If the text contains a stop string, return only the characters before the
        stop string. If ``final`` is True and the text contains no stop string, return all characters.
        """
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
        tokens: ids of the text. Each id must stand for at least one byte.
        size: minimum number of UTF-8 bytes to decode.

    Returns:
        The last characters of the text. They have at least ``size`` bytes, unless the whole text has fewer.
    """
    start = max(len(tokens) - size, 0)
    # A first byte from 0x80 to 0xBF continues a UTF-8 character, so decoding must start earlier.
    while start and b"\x80" <= tokenizer.piece_bytes(tokens[start])[:1] < b"\xc0":
        start -= 1
    return tokenizer.decode(tokens[start:])
