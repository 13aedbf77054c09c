"""Beam search with an exported model in NumPy, as defined in docs/generation.md.

The search calls the function ``step`` of an artifact. It uses no random numbers, so the same model, prompt and options
give the same texts in every runtime. Sums of log-probabilities are float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.contract import Floats, Metadata, Step

MAX_BEAMS = 65_536
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Options of a beam search.

    Attributes:
        beams: number of texts that the search extends in parallel.
        length_penalty: exponent of the length penalty. The value 0 turns it off. With a higher value, longer texts get
            better scores.

    Raises:
        ValueError: if an option is out of range.
    """

    beams: int
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError if an option is out of range or NaN."""
        if not 1 <= self.beams <= MAX_BEAMS:
            raise ValueError(f"beams is out of range: it must be 1 to {MAX_BEAMS}")
        if not 0 <= self.length_penalty <= 10:
            raise ValueError("length_penalty is out of range: it must be 0 (off) to 10")


@dataclass(frozen=True)
class Text:
    """A text that the search has generated, without the prompt."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0  # sum of the log-probabilities of the tokens, in nats
    score: float = 0.0  # ``logprob`` divided by the length penalty


@dataclass(frozen=True)
class _Living:
    """An unfinished text with the log-probabilities of its next token."""

    text: Text
    logprobs: Sums  # float64 [V]; minus infinity for ids that are never generated
    state: Floats  # float32 [S], state of the model after the text


def search(step: Step, ids: Sequence[int], metadata: Metadata, options: Options, *, max_new_tokens: int) -> list[Text]:
    """Search for the continuations of a prompt with the best scores.

    Args:
        step: function that runs the model for one token.
        ids: ids of the prompt, at least one. If the last id is the end token, the result is one empty text.
        metadata: metadata of the artifact.
        options: options of the search.
        max_new_tokens: largest number of tokens of each text.

    Returns:
        At most ``options.beams`` texts, sorted by their scores with the best first.
    """
    if ids[-1] == metadata.end_id:
        return [Text()]
    state = np.zeros(metadata.state_size, np.float32)
    for token in ids[:-1]:
        _, state = step(token, state)
    living, found = [_read(step, Text(), ids[-1], state, metadata)], list[Text]()
    for length in range(1, max_new_tokens + 1):
        children = _children(living, options)
        ends = [text.tokens[-1] == metadata.end_id for _, text in children]
        ended = [text for (_, text), end in zip(children[: options.beams], ends, strict=False) if end]
        found = _best(found + ended, options)
        going = [child for child, end in zip(children, ends, strict=True) if not end][: options.beams]
        if length == max_new_tokens:
            found += [text for _, text in going]
        elif not going or _settled(going[0][1], found, options, max_new_tokens):
            break
        else:
            living = [_read(step, text, text.tokens[-1], parent.state, metadata) for parent, text in going]
    return _best(found, options)


def _best(found: list[Text], options: Options) -> list[Text]:
    """Return at most ``options.beams`` texts, sorted with the best first; texts with equal scores keep their order."""
    return sorted(found, key=lambda text: -text.score)[: options.beams]


def _read(step: Step, text: Text, token: int, state: Floats, metadata: Metadata) -> _Living:
    """Run the model for the last token of a text; return the text with the log-probabilities of its next token."""
    logits, state = step(token, state)
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    logprobs[list(metadata.unsampled_ids)] = -np.inf
    return _Living(text, logprobs, state)


def _children(living: list[_Living], options: Options) -> list[tuple[_Living, Text]]:
    """Extend the texts by one token, and return the best extensions, each with the text that it extends.

    The function returns twice as many extensions as there are beams, because some of them may end with the end token.
    Extensions with equal log-probabilities are sorted by the order of their texts, then by id.
    """
    sums = np.stack([parent.logprobs + parent.text.logprob for parent in living])
    children = []
    for place in np.argsort(-sums.ravel(), kind="stable")[: 2 * options.beams]:
        row, token = divmod(int(place), sums.shape[1])
        total = float(sums[row, token])
        if total > -np.inf:
            tokens = (*living[row].text.tokens, token)
            children.append((living[row], Text(tokens, total, total / _penalty(len(tokens), options))))
    return children


def _penalty(n: int, options: Options) -> float:
    """Return the length penalty for n tokens, including the end token.

    The score of a text is its log-probability divided by the penalty (Wu et al., "Google's Neural Machine Translation
    System", 2016).
    """
    return float(((5 + n) / 6) ** options.length_penalty)


def _settled(best: Text, found: list[Text], options: Options, max_new_tokens: int) -> bool:
    """Return whether the search can stop.

    It can stop if ``found`` contains one finished text per beam, and ``best``, the best unfinished text, cannot get a
    better score than the worst of them.
    """
    if len(found) < options.beams:
        return False
    return best.logprob / _penalty(max_new_tokens, options) <= found[-1].score
