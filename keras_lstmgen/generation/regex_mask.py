"""Compute which tokens may follow, so that the generated text matches a regular expression.

The package llguidance runs the regular expression as an automaton on bytes. Several byte pieces can therefore spell one
character. llguidance computes the states of the automaton only when a text reaches them, so a large pattern causes no
delay before the first token (Brzozowski, "Derivatives of Regular Expressions", 1964).

The whole text must match the pattern. The syntax is the syntax of Rust's ``regex`` crate without look-around, word
boundaries and back-references. Lazy and greedy quantifiers are equivalent.
"""

import json
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError

Mask = NDArray[np.bool_]
NO_TOKEN_ALLOWED = "NoExtension"  # llguidance's error message begins with this word if no piece may follow
TRAILING_BACKSLASH = re.compile(r"(?<!\\)(\\\\)*\\\Z")


class Match(NamedTuple):
    """Immutable state of the automaton for one text. ``follow`` returns the state after one more token."""

    matcher: Any  # llguidance.LLMatcher
    special_ids: list[int]  # symbols that never occur in text


def begin(regex: str, tokenizer: Tokenizer, writable: Mask) -> Match:
    """Create the state of the automaton for an empty text.

    Args:
        regex: the regular expression.
        tokenizer: tokenizer of the model.
        writable: bool [V], True for the pieces that the model may generate.

    Raises:
        UserError: if llguidance is not installed, if the pattern is invalid, or if the model cannot generate a
            text that matches the pattern.
    """
    engine = _engine()
    pieces = engine.LLTokenizer(engine.TokenizerWrapper(_Pieces(tokenizer)), slices=[])
    matcher = engine.LLMatcher(pieces, _grammar(engine, regex, _characters(tokenizer, writable)), log_level=0)
    shown = regex.replace("\n", "\\n")
    if matcher.is_error() or TRAILING_BACKSLASH.search(regex):
        reason = _reason(matcher.get_error()) or "it ends in a backslash"
        raise UserError(f"--regex '{shown}': {reason}; docs/generation.md describes the syntax")
    match = Match(matcher, tokenizer.special_ids)
    if not complete(match) and not (allowed(match) & writable).any():
        raise UserError(f"--regex '{shown}': this model cannot generate a text that matches")
    return match


def follow(match: Match, token: int) -> Match:
    """Return the state after one more token. The token must be allowed."""
    matcher = match.matcher.deep_copy()
    matcher.consume_token(token)
    _check_limits(matcher)
    return Match(matcher, match.special_ids)


def allowed(match: Match) -> Mask:
    """Return a mask of the pieces that may follow, bool [V]. The special symbols are always False."""
    mask = np.frombuffer(match.matcher.compute_logit_bias(), np.uint8) > 0
    _check_limits(match.matcher)
    mask[match.special_ids] = False
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
    """A tokenizer with the attributes that llguidance requires."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.end_id, tokenizer.start_id
        self.special_token_ids = tokenizer.special_ids
        self.tokens = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]


def _engine() -> Any:
    """Import and return llguidance. Raise UserError if it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise UserError("--regex: needs the package llguidance; pip install 'keras_lstmgen[regex]'") from error
    return llguidance


def _grammar(engine: Any, regex: str, characters: str) -> str:
    """Build a grammar that accepts a text if both ``regex`` and ``characters`` match it.

    The grammar needs ``characters``, because a byte piece could otherwise begin a character that no other piece can
    complete. With ``no_forcing``, llguidance allows every tokenization of a passage that the pattern prescribes.
    """
    whole, possible = (
        json.loads(engine.LLMatcher.grammar_from_regex(part))["grammars"][0]["lark_grammar"].removeprefix("start: ")
        for part in (regex, characters)
    )
    lark = f'%llguidance {{"no_forcing": true}}\nstart: TEXT\nTEXT: {whole} & {possible}'
    return str(engine.LLMatcher.grammar_from_lark(lark))


def _characters(tokenizer: Tokenizer, writable: Mask) -> str:
    """Build a pattern such as ``[ab]*``, which matches every text that the model can spell with its pieces.

    If a piece is a byte outside ASCII, the pattern allows every character outside ASCII.
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
    """Extract the line that describes the error from an error message of llguidance."""
    error = re.search(r"^ *error: (.+)$", message, re.MULTILINE)
    first = (message.splitlines() or [""])[0]
    return error[1] if error else first.rpartition("): ")[2]
