"""Constraint of a text to a regular expression, as a mask over the pieces of the tokenizer.

The automaton is that of llguidance. It operates on bytes, so byte pieces can spell the characters of a pattern. It
computes the derivatives of the pattern (Brzozowski, "Derivatives of Regular Expressions", 1964) lazily while a text
grows, so large patterns need no set-up. The syntax is that of Rust's ``regex`` crate without look-around, word
boundaries and back-references. The whole text must match; lazy and greedy quantifiers are equivalent.
"""

import json
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.tokenizers.tokenizer import END, START, UNK, Tokenizer
from keras_lstmgen.utils.errors import UserError

Mask = NDArray[np.bool_]
SPECIAL = [UNK, START, END]
NO_TOKEN_ALLOWED = "NoExtension"  # prefix of llguidance's message that no piece may follow
TRAILING_BACKSLASH = re.compile(r"(?<!\\)(\\\\)*\\\Z")


class Match(NamedTuple):
    """Immutable state of the match of a text; ``follow`` returns the next state."""

    matcher: Any  # llguidance.LLMatcher


def begin(regex: str, tokenizer: Tokenizer, writable: Mask) -> Match:
    """Create the state of an empty text.

    Args:
        regex: the pattern.
        tokenizer: tokenizer of the model.
        writable: bool [V], pieces that the model may generate.

    Raises:
        UserError: if the pattern is invalid, or if no text of these pieces matches it.
    """
    engine = _engine()
    pieces = engine.LLTokenizer(engine.TokenizerWrapper(_Pieces(tokenizer)), slices=[])
    matcher = engine.LLMatcher(pieces, _grammar(engine, regex, _characters(tokenizer, writable)), log_level=0)
    shown = regex.replace("\n", "\\n")
    if matcher.is_error() or TRAILING_BACKSLASH.search(regex):
        reason = _reason(matcher.get_error()) or "it ends in a backslash"
        raise UserError(f"--regex '{shown}': {reason}; docs/generation.md describes the syntax")
    match = Match(matcher)
    if not complete(match) and not (allowed(match) & writable).any():
        raise UserError(f"--regex '{shown}': this model cannot generate a text that matches")
    return match


def follow(match: Match, token: int) -> Match:
    """Return the state after one more token, which must be allowed."""
    matcher = match.matcher.deep_copy()
    matcher.consume_token(token)
    _check_limits(matcher)
    return Match(matcher)


def allowed(match: Match) -> Mask:
    """Return the pieces that may follow, bool [V], without the start, end and unknown symbols."""
    mask = np.frombuffer(match.matcher.compute_logit_bias(), np.uint8) > 0
    _check_limits(match.matcher)
    mask[SPECIAL] = False
    return mask


def _check_limits(matcher: Any) -> None:
    """Raise UserError if the automaton exceeds the limits of llguidance."""
    if matcher.is_error() and not matcher.get_error().startswith(NO_TOKEN_ALLOWED):
        reason = matcher.get_error().splitlines()[0]
        raise UserError(f"--regex: the pattern exceeds a limit of llguidance ({reason}); simplify it")


def complete(match: Match) -> bool:
    """Return whether the text so far matches the pattern."""
    return bool(match.matcher.is_accepting())


class _Pieces:
    """Adapter of a tokenizer to llguidance."""

    eos_token_id, bos_token_id, special_token_ids = END, START, SPECIAL

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]


def _engine() -> Any:
    """Import llguidance; raise UserError if it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise UserError("--regex: needs the package llguidance; pip install 'keras_lstmgen[regex]'") from error
    return llguidance


def _grammar(engine: Any, regex: str, characters: str) -> str:
    """Build a grammar of the intersection of the pattern and the spellable texts.

    The intersection avoids characters that no piece can complete. ``no_forcing`` keeps llguidance from assuming a
    tokenization of text that is certain to follow.
    """
    whole, possible = (
        json.loads(engine.LLMatcher.grammar_from_regex(part))["grammars"][0]["lark_grammar"].removeprefix("start: ")
        for part in (regex, characters)
    )
    lark = f'%llguidance {{"no_forcing": true}}\nstart: TEXT\nTEXT: {whole} & {possible}'
    return str(engine.LLMatcher.grammar_from_lark(lark))


def _characters(tokenizer: Tokenizer, writable: Mask) -> str:
    """Build a pattern of all texts that consist of characters the pieces can spell, such as ``[ab]*``.

    If a piece is a byte above ASCII, the pattern includes every character above ASCII.
    """
    spelled, non_ascii = set[str](), ""
    for token in np.flatnonzero(writable):
        try:
            spelled.update(tokenizer.piece_bytes(int(token)).decode())
        except UnicodeDecodeError:
            non_ascii = r"\x{80}-\x{10FFFF}"
    each = "".join(rf"\x{{{ord(character):X}}}" for character in sorted(spelled))
    return f"[{each}{non_ascii}]*"


def _reason(message: str) -> str:
    """Extract the line that describes the error from a message of llguidance."""
    error = re.search(r"^ *error: (.+)$", message, re.MULTILINE)
    first = (message.splitlines() or [""])[0]
    return error[1] if error else first.rpartition("): ")[2]
