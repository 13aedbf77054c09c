"""Logits processors: penalties, biases, bans and regular expressions, applied outside the graph.

The options change the logits of a token in this order:

1. The contract's ``unsampled_ids`` are removed, and its ``repetition_penalty`` is applied.
2. The bias is added: ``logit_bias``, minus ``presence_penalty`` once for each token that occurs in the output, minus
   ``frequency_penalty`` for each occurrence.
3. Tokens that ``no_repeat_ngram``, ``regex`` or a ``logit_bias`` of minus infinity forbids are removed: their bias is
   minus infinity.
4. The contract's ``temperature``, ``top_k``, ``top_p``, ``min_p`` and noise see only the remaining tokens.

Beam search adds the bias to the log-probability of a token (``beam_search``).

If no token remains, the text ends as after an end token, and a note names the options that forbid all tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.generation import regex_mask
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
MAX_BIAS = 1e6  # larger than any logit, and finite in float32 after division by any temperature


@dataclass(frozen=True)
class HostOptions:
    """Options of the logits processors. The defaults are neutral.

    Attributes:
        no_repeat_ngram: n; each sequence of n tokens occurs at most once in prompt and output; 0: off.
        presence_penalty: subtracted from the logit of each token that occurs in the output.
        frequency_penalty: subtracted from the logit of a token for each occurrence in the output.
        logit_bias: ``"TOKEN=X"`` or ``"#ID=X"``; X is added to the logit of the token, and ``-inf`` forbids it.
        regex: pattern that the whole output must match; None: off.

    Raises:
        UserError: if a value is out of range or not UTF-8; the message names the command line option.
    """

    no_repeat_ngram: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[str, ...] = ()
    regex: str | None = None

    def __post_init__(self) -> None:
        """Check every value; NaN is out of range."""
        if not self.no_repeat_ngram >= 0:
            raise UserError(f"--no-repeat-ngram: {self.no_repeat_ngram} is out of range; give 0 (off) or more")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) <= MAX_BIAS:
                option = f"--{name.replace('_', '-')}: {getattr(self, name)}"
                raise UserError(f"{option} is out of range; give a number from -1000000 to 1000000 (0: off)")
        for option, word in [("--regex", self.regex or ""), *(("--logit-bias", word) for word in self.logit_bias)]:
            if not _is_unicode(word):
                raise UserError(f"{option}: the value is not UTF-8; give it as UTF-8")


def _is_unicode(word: str) -> bool:
    """Return whether a word has no surrogates, which stand for invalid bytes of the command line."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


class Constraints(NamedTuple):
    """Options that are compiled for a vocabulary.

    Attributes:
        options: the options.
        fixed: float32 [V], the bias of ``logit_bias``; minus infinity also for ids that the model never generates.
        end_id: id that ends a text.
        match: state of the pattern for an empty text; None: no pattern.
    """

    options: HostOptions
    fixed: Floats
    end_id: int
    match: regex_mask.Match | None


class Draft(NamedTuple):
    """Immutable state of a text that grows; ``follow`` returns the next state.

    Attributes:
        ids: int32, prompt and output.
        begins: index of the first id of the output.
        match: state of the pattern; None: no pattern.
    """

    ids: Ids
    begins: int
    match: regex_mask.Match | None

    @property
    def output(self) -> Ids:
        """Return the ids of the output."""
        return self.ids[self.begins :]


class Outlook(NamedTuple):
    """The tokens that may follow a text.

    Attributes:
        bias: float32 [V] to add to the logits; minus infinity forbids a token.
        over: whether the text has to end here: no token may follow, or it has ended.
        note: the options that forbid all tokens, as a sentence; "" if there are none.
    """

    bias: Floats
    over: bool
    note: str = ""


def compiled(options: HostOptions, tokenizer: Tokenizer, unsampled_ids: Sequence[int], end_id: int) -> Constraints:
    """Compile options for the vocabulary of a model.

    Args:
        options: the options.
        tokenizer: tokenizer of the model.
        unsampled_ids: ids that the model never generates.
        end_id: id that ends a text.

    Returns:
        The compiled options.

    Raises:
        UserError: if a bias names an unknown token or enables one of ``unsampled_ids``, if the pattern is invalid, or
            if no text of the vocabulary matches it.
    """
    fixed = np.zeros(tokenizer.vocab_size, np.float32)
    fixed[list(unsampled_ids)] = -np.inf
    for word in options.logit_bias:
        token, value = _parse_bias(word, tokenizer)
        if token not in unsampled_ids:
            fixed[token] = value
        elif value > 0:
            raise UserError(f"--logit-bias '{word}': this model never generates {tokenizer.piece(token)!r}")
    match = None if options.regex is None else regex_mask.begin(options.regex, tokenizer, fixed > -np.inf)
    return Constraints(options, fixed, end_id, match)


def _parse_bias(word: str, tokenizer: Tokenizer) -> tuple[int, float]:
    """Return the id and the bias of ``TOKEN=X`` or ``#ID=X``."""
    name, equals, number = word.rpartition("=")
    try:
        value = numerals.parse_float(number)
    except ValueError:
        value = np.nan
    shown = numerals.shortened(word)
    if not name or not equals or not (abs(value) <= MAX_BIAS or number.lower() == "-inf"):
        raise UserError(f"--logit-bias '{shown}': give TOKEN=X or #ID=X, X from -1000000 to 1000000, or -inf to forbid")
    token = _parse_id(name) if re.fullmatch("#[0-9]+", name) else tokenizer.id_of(name)
    if token is None or token >= tokenizer.vocab_size:
        raise UserError(f"--logit-bias '{shown}': {_unknown_token(name, token, tokenizer)}")
    return token, value


def _parse_id(name: str) -> int:
    """Return the id of ``#ID``; a number with too many digits is cut, because it exceeds every vocabulary anyway."""
    return int(name[1 : numerals.MAX_DIGITS + 1]) if len(name.lstrip("#0")) > numerals.MAX_DIGITS else int(name[1:])


def _unknown_token(name: str, token: int | None, tokenizer: Tokenizer) -> str:
    """Explain why a name is not a token of the vocabulary, and which tokens can replace it."""
    if token is not None:
        return f"there is no such id; give one below {tokenizer.vocab_size}"
    pieces = " ".join(tokenizer.piece(int(part)) for part in tokenizer.encode(name))
    return f"the vocabulary has no such token; give a bias to one of the pieces of this text instead: {pieces}"


def begin(constraints: Constraints, ids: Sequence[int]) -> Draft:
    """Return the state of an empty output after the ids of a prompt, including the start symbol."""
    return Draft(np.array(ids, np.int32), len(ids), constraints.match)


def follow(draft: Draft, token: int, end_id: int) -> Draft:
    """Return the state after one more token, which must be allowed."""
    match = regex_mask.follow(draft.match, token) if draft.match and token != end_id else draft.match
    return draft._replace(ids=np.append(draft.ids, np.int32(token)), match=match)


def outlook(constraints: Constraints, draft: Draft) -> Outlook:
    """Compute the bias of the next token, and whether the text has to end instead."""
    options, fixed = constraints.options, constraints.fixed
    if draft.ids[-1] == constraints.end_id:
        return Outlook(fixed, over=True)
    bias = fixed - _penalties(options, draft.output, len(fixed))
    repeated = repeats(draft.ids, options.no_repeat_ngram)
    bias[repeated] = -np.inf
    if draft.match:
        allowed = regex_mask.allowed(draft.match)
        is_complete = regex_mask.complete(draft.match)
        if is_complete and not (allowed & (fixed > -np.inf)).any():
            return Outlook(bias, over=True)
        allowed[constraints.end_id] = is_complete
        bias[~allowed] = -np.inf
    if np.isneginf(bias).all():
        return Outlook(bias, over=True, note=_forbidding_options(options, len(repeated) > 0))
    return Outlook(bias, over=False)


def _penalties(options: HostOptions, output: Ids, V: int) -> Floats:
    """Compute the presence and frequency penalties, float32 [V], as defined by OpenAI's API.

    ``counts[j] * frequency_penalty + (counts[j] > 0) * presence_penalty``, where ``counts[j]`` is the number of times
    that token j occurs in the output.
    """
    counts = np.bincount(output, minlength=V)
    penalties = counts * options.frequency_penalty + (counts > 0) * options.presence_penalty
    return penalties.astype(np.float32)


def repeats(ids: Ids, n: int) -> Ids:
    """Return the tokens that would repeat an n-gram of ``ids`` (Paulus, Xiong and Socher, 2017).

    Args:
        ids: int32, prompt and output.
        n: length of the n-grams; 0: off; 1: every token of ``ids``.

    >>> import numpy as np
    >>> from keras_lstmgen.generation.logits_processors import repeats
    >>> repeats(np.array([5, 6, 7, 5, 6], np.int32), 3).tolist()
    [7]
    """
    if n == 0 or len(ids) < n:
        return np.zeros(0, np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(ids, n)
    same = (windows[:, :-1] == ids[len(ids) - n + 1 :]).all(axis=1)
    return windows[same, -1]


def _forbidding_options(options: HostOptions, repeated: bool) -> str:
    """Name the options that forbid all tokens."""
    names = {
        "--no-repeat-ngram": repeated,
        "--regex": options.regex is not None,
        "--logit-bias": any(float(word.rpartition("=")[2]) == -np.inf for word in options.logit_bias),
    }
    return f"all tokens are excluded by {' and '.join(name for name, forbids in names.items() if forbids)}"


def unfinished(draft: Draft) -> bool:
    """Return whether the output does not match its pattern yet."""
    return draft.match is not None and not regex_mask.complete(draft.match)
