"""A regular expression that a text has to match, as a mask over the pieces of its tokenizer.

The automaton is llguidance's. It reads bytes, so that byte pieces spell the characters of a pattern; it follows the
derivatives of the pattern (Brzozowski, 1964) only as far as a text goes, so that no pattern is too large to begin with.
The syntax is that of Rust's ``regex``, without look-around, word boundaries and back-references; the whole text
has to match, and a lazy quantifier is as good as another.
"""

import json
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.errors import UserError
from keras_lstmgen.tokenizer import END, START, UNK, Tokenizer

Mask = NDArray[np.bool_]
SPECIAL = [UNK, START, END]
NOTHING_ALLOWED = "NoExtension"  # how llguidance begins to say that no piece may follow
TRAILING_BACKSLASH = re.compile(r"(?<!\\)(\\\\)*\\\Z")


class Match(NamedTuple):
    """How far a text has come. It is never changed: ``follow`` gives another."""

    matcher: Any  # llguidance.LLMatcher


def begin(regex: str, tokenizer: Tokenizer, writable: Mask) -> Match:
    """Begin a text that has to match. ``writable``, bool [V], are the pieces that a model may write.

    Raises UserError if the pattern cannot be read, or if no text of these pieces matches it.
    """
    engine = _engine()
    pieces = engine.LLTokenizer(engine.TokenizerWrapper(_Pieces(tokenizer)), slices=[])
    matcher = engine.LLMatcher(pieces, _grammar(engine, regex, _characters(tokenizer, writable)), log_level=0)
    shown = regex.replace("\n", "\\n")
    if matcher.is_error() or TRAILING_BACKSLASH.search(regex):
        reason = _reason(matcher.get_error()) or "it ends in a backslash"
        raise UserError(f"--regex '{shown}': {reason}; docs/generation.md says what a pattern may hold")
    match = Match(matcher)
    if not complete(match) and not (allowed(match) & writable).any():
        raise UserError(f"--regex '{shown}': this model can write no text that matches")
    return match


def follow(match: Match, token: int) -> Match:
    """The match of a text that goes on with a token that was allowed."""
    matcher = match.matcher.deep_copy()
    matcher.consume_token(token)
    _hold(matcher)
    return Match(matcher)


def allowed(match: Match) -> Mask:
    """The pieces with which a text may go on towards a match: bool [V], never start, end or unknown."""
    mask = np.frombuffer(match.matcher.compute_logit_bias(), np.uint8) > 0
    _hold(match.matcher)
    mask[SPECIAL] = False
    return mask


def _hold(matcher: Any) -> None:
    """Refuse a pattern whose automaton has grown beyond llguidance's limits."""
    if matcher.is_error() and not matcher.get_error().startswith(NOTHING_ALLOWED):
        reason = matcher.get_error().splitlines()[0]
        raise UserError(f"--regex: the pattern is too large to go on with ({reason}); simplify it")


def complete(match: Match) -> bool:
    """Say whether what stands there is a match."""
    return bool(match.matcher.is_accepting())


class _Pieces:
    """A vocabulary as llguidance wants it."""

    eos_token_id, bos_token_id, special_token_ids = END, START, SPECIAL

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]


def _engine() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise UserError("--regex: needs the package llguidance; pip install 'keras_lstmgen[regex]'") from error
    return llguidance


def _grammar(engine: Any, regex: str, characters: str) -> str:
    """Both the pattern and texts of these characters, so that nothing is begun that no piece could finish.

    Left to itself, llguidance would take for granted how a tokenizer cuts what is certain to follow.
    """
    whole, possible = (
        json.loads(engine.LLMatcher.grammar_from_regex(part))["grammars"][0]["lark_grammar"].removeprefix("start: ")
        for part in (regex, characters)
    )
    lark = f'%llguidance {{"no_forcing": true}}\nstart: TEXT\nTEXT: {whole} & {possible}'
    return str(engine.LLMatcher.grammar_from_lark(lark))


def _characters(tokenizer: Tokenizer, writable: Mask) -> str:
    """A pattern for all texts of the characters that these pieces spell, each by its number: ``[ab]*``.

    Where bytes beyond ASCII may be written, every character beyond ASCII counts.
    """
    spelled, beyond = set[str](), ""
    for token in np.flatnonzero(writable):
        try:
            spelled.update(tokenizer.piece_bytes(int(token)).decode())
        except UnicodeDecodeError:
            beyond = r"\x{80}-\x{10FFFF}"
    each = "".join(rf"\x{{{ord(character):X}}}" for character in sorted(spelled))
    return f"[{each}{beyond}]*"


def _reason(said: str) -> str:
    """The one line of llguidance's message that says what is wrong."""
    error = re.search(r"^ *error: (.+)$", said, re.MULTILINE)
    first = (said.splitlines() or [""])[0]
    return error[1] if error else first.rpartition("): ")[2]
