"""Beam search with an exported model, in NumPy: docs/generation.md as code.

The texts with the best scores that a search of a given width finds, over the artifact's ``step``. It draws nothing: one
model, one prompt and one width find the same texts in every runtime. Sums are float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.contract import Floats, Metadata, Step

MOST = 65_536  # beams
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What is searched for. ``ValueError`` names an option out of range."""

    beams: int
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Hold both against their ranges; the comparisons refuse NaN too."""
        if not 1 <= self.beams <= MOST:
            raise ValueError(f"beams is out of range: it must be 1 to {MOST}")
        if not 0 <= self.length_penalty <= 10:
            raise ValueError("length_penalty is out of range: it must be 0 (off) to 10")


@dataclass(frozen=True)
class Text:
    """A text of the search, the prompt left out."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0  # the sum over its tokens
    score: float = 0.0


@dataclass(frozen=True)
class _Living:
    """A text that goes on, and what the model gives for its next token."""

    text: Text
    logprobs: Sums  # [V]; minus infinity where a token is never written
    state: Floats  # [S]


def search(step: Step, ids: Sequence[int], metadata: Metadata, options: Options, *, max_new_tokens: int) -> list[Text]:
    """Feed ``ids`` (at least one) and give the best texts behind them, best first, at most ``beams``.

    Ids that end with the end token are a text that is over: nothing follows.
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
    """The N best of what was found, best first, equals in the order in which they were found."""
    return sorted(found, key=lambda text: -text.score)[: options.beams]


def _read(step: Step, text: Text, token: int, state: Floats, metadata: Metadata) -> _Living:
    """Read the last token of a text."""
    logits, state = step(token, state)
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    logprobs[list(metadata.unsampled_ids)] = -np.inf
    return _Living(text, logprobs, state)


def _children(living: list[_Living], options: Options) -> list[tuple[_Living, Text]]:
    """The 2 N continuations of the largest sums, each with the text that it continues; equals by text, then by id."""
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
    """What the sum of a text of n tokens, the end token included, is divided by (Wu et al., 2016)."""
    return float(((5 + n) / 6) ** options.length_penalty)


def _settled(best: Text, found: list[Text], options: Options, max_new_tokens: int) -> bool:
    """Say whether N texts are found, and ``best``, the best that lives, cannot come to be above the Nth of them."""
    if len(found) < options.beams:
        return False
    return best.logprob / _penalty(max_new_tokens, options) <= found[-1].score
