"""What a text should less, or may not, hold: the options of the host, beside the contract's, which they leave alone.

The order in which everything is applied to the logits of a token:

1. the contract's ``unsampled_ids`` are removed, and its ``repetition_penalty`` is applied;
2. ``bias`` of this file is added: ``logit_bias``, less ``presence_penalty`` once for each token that the output holds,
   less ``frequency_penalty`` once for each time that it does;
3. ``bias`` is minus infinity, and a token is removed, where ``no_repeat_ngram``, ``regex`` or a ``logit_bias`` of minus
   infinity forbids it;
4. the contract's ``temperature``, ``top_k``, ``top_p``, ``min_p`` and the draw see what is left, and nothing else.

A beam search draws nothing: it adds ``bias`` to the log-probability of a token (``beam``).

Where everything is forbidden the text ends, as if an end symbol had been written, and a note names the options.
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
LARGEST = 1e6  # of a penalty or bias: beyond any logit, and finite in float32 after any temperature


@dataclass(frozen=True)
class HostOptions:
    """What is asked of a text; the defaults change nothing. Errors name the option as it is typed."""

    no_repeat_ngram: int = 0  # no n tokens of prompt and output come twice; 0: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[str, ...] = ()  # "TOKEN=X" or "#ID=X"
    regex: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range; NaN is."""
        if not self.no_repeat_ngram >= 0:
            raise UserError(f"--no-repeat-ngram: {self.no_repeat_ngram} is out of range; give 0 (off) or more")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) <= LARGEST:
                said = f"--{name.replace('_', '-')}: {getattr(self, name)}"
                raise UserError(f"{said} is out of range; give a number from -1000000 to 1000000 (0: off)")
        for option, word in [("--regex", self.regex or ""), *(("--logit-bias", word) for word in self.logit_bias)]:
            if not _is_unicode(word):
                raise UserError(f"{option}: what is given is not UTF-8; give it as UTF-8")


def _is_unicode(word: str) -> bool:
    """Half a surrogate pair stands for a byte of the command line that is no text."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


class Constraints(NamedTuple):
    """The options of a text, worked out for a vocabulary."""

    options: HostOptions
    fixed: Floats  # [V], what logit_bias adds; minus infinity also for what a model never writes
    end_id: int
    match: regex_mask.Match | None  # of an empty text


class Draft(NamedTuple):
    """A text as far as it is written. It is never changed: ``follow`` gives another."""

    ids: Ids  # prompt and output
    begins: int  # where the output does
    match: regex_mask.Match | None

    @property
    def output(self) -> Ids:
        """What was written."""
        return self.ids[self.begins :]


class Outlook(NamedTuple):
    """What may follow a draft."""

    bias: Floats  # [V]; minus infinity is forbidden
    over: bool  # nothing may follow, not even an end symbol, or nothing but it
    note: str = ""  # which options forbid everything


def compiled(options: HostOptions, tokenizer: Tokenizer, unsampled_ids: Sequence[int], end_id: int) -> Constraints:
    """Work out the options for a model's vocabulary. UserError names one that this vocabulary cannot honour."""
    fixed = np.zeros(tokenizer.vocab_size, np.float32)
    fixed[list(unsampled_ids)] = -np.inf
    for word in options.logit_bias:
        token, value = _biased(word, tokenizer)
        if token not in unsampled_ids:
            fixed[token] = value
        elif value > 0:
            raise UserError(f"--logit-bias '{word}': this model never writes {tokenizer.piece(token)!r}")
    match = None if options.regex is None else regex_mask.begin(options.regex, tokenizer, fixed > -np.inf)
    return Constraints(options, fixed, end_id, match)


def _biased(word: str, tokenizer: Tokenizer) -> tuple[int, float]:
    """The token and the number of ``TOKEN=X`` or ``#ID=X``."""
    name, equals, number = word.rpartition("=")
    try:
        value = numerals.parse_float(number)
    except ValueError:
        value = np.nan
    shown = numerals.shortened(word)
    if not name or not equals or not (abs(value) <= LARGEST or number.lower() == "-inf"):
        raise UserError(f"--logit-bias '{shown}': give TOKEN=X or #ID=X, X from -1000000 to 1000000, or -inf to forbid")
    token = _id(name) if re.fullmatch("#[0-9]+", name) else tokenizer.id_of(name)
    if token is None or token >= tokenizer.vocab_size:
        raise UserError(f"--logit-bias '{shown}': {_unknown(name, token, tokenizer)}")
    return token, value


def _id(name: str) -> int:
    """The id of ``#ID``; one too long to be read is as good as any other that is too large."""
    return int(name[1 : numerals.MAX_DIGITS + 1]) if len(name.lstrip("#0")) > numerals.MAX_DIGITS else int(name[1:])


def _unknown(name: str, token: int | None, tokenizer: Tokenizer) -> str:
    """Why a name is none of a token, and what would be."""
    if token is not None:
        return f"there is no such id; give one below {tokenizer.vocab_size}"
    cut = " ".join(tokenizer.piece(int(part)) for part in tokenizer.encode(name))
    return f"no token is spelled so; the tokenizer cuts it into {cut}, of which each may be given a bias"


def begin(constraints: Constraints, ids: Sequence[int]) -> Draft:
    """Begin a text behind the ids of a prompt, the start symbol included."""
    return Draft(np.array(ids, np.int32), len(ids), constraints.match)


def follow(draft: Draft, token: int, end_id: int) -> Draft:
    """Write one token more, one that was allowed."""
    match = regex_mask.follow(draft.match, token) if draft.match and token != end_id else draft.match
    return draft._replace(ids=np.append(draft.ids, np.int32(token)), match=match)


def outlook(constraints: Constraints, draft: Draft) -> Outlook:
    """What may follow, and whether anything may: behind an end token nothing."""
    options, fixed = constraints.options, constraints.fixed
    if draft.ids[-1] == constraints.end_id:
        return Outlook(fixed, over=True)
    bias = fixed - _penalties(options, draft.output, len(fixed))
    twice = repeats(draft.ids, options.no_repeat_ngram)
    bias[twice] = -np.inf
    if draft.match:
        possible = regex_mask.allowed(draft.match)
        finished = regex_mask.complete(draft.match)
        if finished and not (possible & (fixed > -np.inf)).any():
            return Outlook(bias, over=True)
        possible[constraints.end_id] = finished
        bias[~possible] = -np.inf
    if np.isneginf(bias).all():
        return Outlook(bias, over=True, note=_forbidding(options, len(twice) > 0))
    return Outlook(bias, over=False)


def _penalties(options: HostOptions, output: Ids, V: int) -> Floats:
    """What the output takes from each logit, float32 [V], as OpenAI's API defines it.

    ``c[j] * frequency_penalty + (c[j] > 0) * presence_penalty``, c[j] being how often token j was written.
    """
    counts = np.bincount(output, minlength=V)
    taken = counts * options.frequency_penalty + (counts > 0) * options.presence_penalty
    return taken.astype(np.float32)


def repeats(ids: Ids, n: int) -> Ids:
    """The tokens that would make the last n of ``ids`` n that stand there already (Paulus et al., 2017).

    After 5 6 7 5 6 and with n = 3 that is 7; with n = 1 all that stands there.
    """
    if n == 0 or len(ids) < n:
        return np.zeros(0, np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(ids, n)
    same = (windows[:, :-1] == ids[len(ids) - n + 1 :]).all(axis=1)
    return windows[same, -1]


def _forbidding(options: HostOptions, repeated: bool) -> str:
    """Name the options that leave nothing."""
    names = {
        "--no-repeat-ngram": repeated,
        "--regex": options.regex is not None,
        "--logit-bias": any(float(word.rpartition("=")[2]) == -np.inf for word in options.logit_bias),
    }
    return f"{' and '.join(name for name, forbids in names.items() if forbids)} left nothing that could follow"


def unfinished(draft: Draft) -> bool:
    """Say whether a text that ends here is no match of its pattern."""
    return draft.match is not None and not regex_mask.complete(draft.match)
