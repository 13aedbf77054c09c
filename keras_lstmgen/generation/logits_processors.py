"""Logits processors: options that forbid tokens or change their logits, applied outside the TensorFlow graph.

The processors compute a bias for each token of the vocabulary. The logits of the next token change in this order:

1. The tokens of ``unsampled_ids`` are removed, and ``repetition_penalty`` is applied (``docs/contract.md``).
2. The bias of each token is added to its logit. The bias is ``logit_bias``, minus ``presence_penalty`` if the token
   occurs in the output, minus ``frequency_penalty`` times the number of occurrences of the token in the output.
3. Tokens with a bias of minus infinity are removed. They are the forbidden tokens: ``no_repeat_ngram``, ``regex``,
   ``min_new_tokens`` and a ``logit_bias`` of minus infinity forbid tokens.
4. ``temperature``, ``top_k``, ``top_p``, ``min_p`` and the noise select one of the remaining tokens
   (``docs/contract.md``).

Beam search adds the bias to the log-probability of a token instead (``beam_search``).

If all tokens are forbidden, the text ends as if an end token followed. A note then names the options that forbid all
tokens.
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
    """Options of the logits processors. The default values change nothing.

    The host is the Python program that calls the graph.

    Attributes:
        min_new_tokens: minimum number of tokens of the output. The end token is forbidden until the output has this
            number of tokens. 0 to allow the end token at any time.
        no_repeat_ngram: n, a number of tokens. The output never repeats a sequence of n tokens that already occurs in
            the prompt or earlier in the output. 0 to allow repetitions.
        presence_penalty: a number that is subtracted from the logit of each token that occurs in the output.
        frequency_penalty: a number that is subtracted from the logit of a token once for each occurrence of the token
            in the output.
        logit_bias: strings of the form ``"TOKEN=X"`` or ``"#ID=X"``. X is added to the logit of the token. ``-inf``
            forbids the token.
        regex: a regular expression that the whole output must match. None for no constraint.

    Raises:
        UserError: if a value is out of range or not UTF-8. The message names the command line option.
    """

    no_repeat_ngram: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[str, ...] = ()
    regex: str | None = None
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        """Check every value. NaN is out of range."""
        if not self.min_new_tokens >= 0:
            raise UserError(f"--min-new-tokens: {self.min_new_tokens} is out of range; give 0 (off) or more")
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
    """Return True if a word contains no surrogates, which in Python replace invalid bytes of the command line."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


class Constraints(NamedTuple):
    """Options of the logits processors, compiled for the vocabulary of a model.

    Attributes:
        options: the options.
        fixed: float32 [V], the part of the bias that is the same for every token of a text. It is minus infinity for
            ids that the model never generates, and the value of ``logit_bias`` for all other ids.
        end_id: id that ends a text.
        match: state of the regular expression before the first token. None if there is no regular expression.
    """

    options: HostOptions
    fixed: Floats
    end_id: int
    match: regex_mask.Match | None


class Draft(NamedTuple):
    """Immutable state of the logits processors for one unfinished text.

    ``follow`` returns the state after one more token.

    Attributes:
        ids: int32, the ids of the prompt and of the output.
        begins: index in ``ids`` of the first id of the output.
        match: state of the regular expression. None if there is no regular expression.
    """

    ids: Ids
    begins: int
    match: regex_mask.Match | None

    @property
    def output(self) -> Ids:
        """Return the ids of the output."""
        return self.ids[self.begins :]


class Outlook(NamedTuple):
    """The bias of the next token of a text, or the reason why the text must end.

    Attributes:
        bias: float32 [V], added to the logits of the next token. Minus infinity forbids a token.
        over: whether no token may follow, either because all tokens are forbidden or because the text has ended.
        note: a message that names the options that together forbid all tokens. "" if the options do not forbid all
            tokens.
    """

    bias: Floats
    over: bool
    note: str = ""


def compiled(options: HostOptions, tokenizer: Tokenizer, unsampled_ids: Sequence[int], end_id: int) -> Constraints:
    """Compile the options of the logits processors for the vocabulary of a model.

    Args:
        options: the options.
        tokenizer: tokenizer of the model.
        unsampled_ids: ids that the model never generates.
        end_id: id that ends a text.

    Returns:
        The compiled options.

    Raises:
        UserError: if ``min_new_tokens`` is given for a model without an end token, if ``logit_bias`` names an unknown
            token, if it has a positive value for one of ``unsampled_ids``, if the regular expression is invalid, or if
            the model cannot generate a text that matches the regular expression.
    """
    if options.min_new_tokens and end_id in unsampled_ids:
        raise UserError(
            "--min-new-tokens has no effect here: it needs a model that generates an end token, and a model of a "
            "continuous text never does"
        )
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
    """Parse ``TOKEN=X`` or ``#ID=X``, and return the id of the token and its bias X."""
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
    """Parse ``#ID`` and return the id.

    A longer number is cut to ``MAX_DIGITS + 1`` digits before the conversion, because Python limits the number of
    digits. The result is then not the given id, but is still larger than every id of a vocabulary.
    """
    return int(name[1:].lstrip("0")[: numerals.MAX_DIGITS + 1] or "0")


def _unknown_token(name: str, token: int | None, tokenizer: Tokenizer) -> str:
    """Return the end of an error message: it says that the vocabulary lacks the token, and what to give instead."""
    if token is not None:
        return f"there is no such id; give one below {tokenizer.vocab_size}"
    pieces = " ".join(tokenizer.piece(int(part)) for part in tokenizer.encode(name))
    return f"the vocabulary has no such token; give a bias to one of the pieces of this text instead: {pieces}"


def begin(constraints: Constraints, ids: Sequence[int]) -> Draft:
    """Return the state before the first generated token. ``ids`` contains the prompt with its start symbol."""
    return Draft(np.array(ids, np.int32), len(ids), constraints.match)


def follow(draft: Draft, token: int, end_id: int) -> Draft:
    """Return the state after one more token. The token must be allowed."""
    match = regex_mask.follow(draft.match, token) if draft.match and token != end_id else draft.match
    return draft._replace(ids=np.append(draft.ids, np.int32(token)), match=match)


def outlook(constraints: Constraints, draft: Draft) -> Outlook:
    """Compute the bias of the next token, or the reason why the text must end."""
    options, fixed = constraints.options, constraints.fixed
    if draft.ids[-1] == constraints.end_id:
        return Outlook(fixed, over=True)
    bias = fixed - _penalties(options, draft.output, len(fixed))
    repeated = repeats(draft.ids, options.no_repeat_ngram)
    bias[repeated] = -np.inf
    is_short = len(draft.output) < options.min_new_tokens
    if draft.match:
        allowed = regex_mask.allowed(draft.match)
        is_complete = regex_mask.complete(draft.match)
        if is_complete and not (allowed & (fixed > -np.inf)).any():
            return Outlook(bias, over=True)
        allowed[constraints.end_id] = is_complete
        bias[~allowed] = -np.inf
    if is_short:
        bias[constraints.end_id] = -np.inf
    if np.isneginf(bias).all():
        return Outlook(bias, over=True, note=_forbidding_options(options, len(repeated) > 0, is_short))
    return Outlook(bias, over=False)


def _penalties(options: HostOptions, output: Ids, V: int) -> Floats:
    """Compute the sum of the presence and frequency penalties of each token, float32 [V].

    OpenAI's API defines the penalty of token j as

        counts[j] * frequency_penalty + (counts[j] > 0) * presence_penalty

    The number ``counts[j]`` is the number of occurrences of token j in the output.
    """
    counts = np.bincount(output, minlength=V)
    penalties = counts * options.frequency_penalty + (counts > 0) * options.presence_penalty
    return penalties.astype(np.float32)


def repeats(ids: Ids, n: int) -> Ids:
    """Return each token that would complete a repeated n-gram if it followed ``ids`` (Paulus, Xiong and Socher, 2017).

    Args:
        ids: int32, the ids of the prompt and of the output.
        n: length of the n-grams. With 0, the result is empty. With 1, the result contains every token of ``ids``.

    Returns:
        The ids of the tokens, int32. An id can occur several times.

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


def _forbidding_options(options: HostOptions, repeated: bool, is_short: bool) -> str:
    """Return a message that names the options that together forbid all tokens."""
    names = {
        "--min-new-tokens": is_short,
        "--no-repeat-ngram": repeated,
        "--regex": options.regex is not None,
        "--logit-bias": any(float(word.rpartition("=")[2]) == -np.inf for word in options.logit_bias),
    }
    return f"all tokens are excluded by {' and '.join(name for name, forbids in names.items() if forbids)}"


def unfinished(draft: Draft) -> bool:
    """Return True if there is a regular expression and the output does not match it yet."""
    return draft.match is not None and not regex_mask.complete(draft.match)
