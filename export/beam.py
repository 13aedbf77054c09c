"""Beam search with an exported model in NumPy, as defined in docs/generation.md.

The search calls the ``step`` of an artifact. It uses no random numbers, so a model, a prompt and a number of beams give
the same texts in every runtime. Sums are float64.
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
    """Options of a search; raise ValueError for an option out of range."""

    beams: int
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check both ranges; NaN is out of range."""
        if not 1 <= self.beams <= MAX_BEAMS:
            raise ValueError(f"beams is out of range: it must be 1 to {MAX_BEAMS}")
        if not 0 <= self.length_penalty <= 10:
            raise ValueError("length_penalty is out of range: it must be 0 (off) to 10")


@dataclass(frozen=True)
class Text:
    """A text of the search, without the prompt."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0  # sum over its tokens, in nats
    score: float = 0.0


@dataclass(frozen=True)
class _Living:
    """An unfinished text, with the log-probabilities of its next token."""

    text: Text
    logprobs: Sums  # [V]; minus infinity for ids that are never generated
    state: Floats  # [S]


def search(step: Step, ids: Sequence[int], metadata: Metadata, options: Options, *, max_new_tokens: int) -> list[Text]:
    """Search for the best continuations of a prompt.

    Args:
        step: the step of the artifact.
        ids: ids of the prompt, at least one. If the last one is the end token, the result is one empty text.
        metadata: metadata of the artifact.
        options: options of the search.
        max_new_tokens: limit of each text.

    Returns:
        At most ``options.beams`` texts, best first.
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
    """Return the N best texts, best first; equal scores keep their order."""
    return sorted(found, key=lambda text: -text.score)[: options.beams]


def _read(step: Step, text: Text, token: int, state: Floats, metadata: Metadata) -> _Living:
    """Read the last token of a text, and return the text with the log-probabilities of its next token."""
    logits, state = step(token, state)
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    logprobs[list(metadata.unsampled_ids)] = -np.inf
    return _Living(text, logprobs, state)


def _children(living: list[_Living], options: Options) -> list[tuple[_Living, Text]]:
    """Return the 2 N best continuations, each with its parent; equal sums are ordered by text, then by id."""
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
    """Return the length penalty of n tokens, including the end token (Wu et al., 2016), that divides the sum."""
    return float(((5 + n) / 6) ** options.length_penalty)


def _settled(best: Text, found: list[Text], options: Options, max_new_tokens: int) -> bool:
    """Return whether N texts are finished, and the best unfinished text cannot become better than the Nth of them."""
    if len(found) < options.beams:
        return False
    return best.logprob / _penalty(max_new_tokens, options) <= found[-1].score
