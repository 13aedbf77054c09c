"""How good a model is: its loss on a text it has not seen, and how much of what it writes is copied."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen.model import Weights, score, state_size

WINDOW = 256  # tokens scored in one call
WARM_UP = WINDOW  # tokens read, not scored, before each part of a text that is scored in parts side by side


def scorer(weights: Weights) -> Callable[..., Any]:
    """Compile ``score`` for a model's weights; traced once, for any B and P."""
    return tf.function(lambda ids, state: score(weights, ids, state), reduce_retracing=True)


def total_nats(
    weights: Weights,
    ids: np.ndarray[Any, Any],
    parts: int = 1,
    call: Callable[..., Any] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> float:
    """Negative log-likelihood of ``ids[1:]`` [N-1], each given all before it, in nats, summed in float64.

    With ``parts`` = 1 the state is carried over the whole text. With more, the text is read in that many parts side by
    side, each after a warm-up on the tokens before it: faster, and equal but for what the state keeps longer than that.
    ``advance`` is told of the tokens scored.
    """
    call = call or scorer(weights)
    N = len(ids) - 1
    length = -(-N // parts)  # targets of a part; the last may have fewer
    warm = WARM_UP if parts > 1 else 0
    first = np.arange(parts)[:, np.newaxis] * length - warm
    state = tf.zeros((parts, state_size(weights)))
    total = 0.0
    for start in range(0, warm + length, WINDOW):
        at = first + np.arange(start, min(start + WINDOW, warm + length) + 1)[np.newaxis, :]
        if start == warm:  # the first part has no text before it
            state *= (np.arange(parts) > 0)[:, np.newaxis]
        logprobs, state = call(np.asarray(ids[np.clip(at, 0, N)], np.int32), state)
        target = at[:, 1:]
        mine = (target > first + warm) & (target <= N)
        total -= float(np.sum(logprobs.numpy(), where=mine, dtype=np.float64))
        advance(int(mine.sum()))
    return total


def measures(nats: float, counts: dict[str, int]) -> dict[str, float]:
    """A text's loss in every unit; ``counts`` has its tokens, characters, bytes and words.

    nats per token, bits per character and byte, perplexity per token and per (whitespace-separated) word.
    """
    bits = nats / math.log(2)
    return {
        "nats_per_token": nats / max(counts["tokens"], 1),
        "bits_per_character": bits / max(counts["characters"], 1),
        "bits_per_byte": bits / max(counts["bytes"], 1),
        "perplexity": _exp(nats / max(counts["tokens"], 1)),
        "word_perplexity": _exp(nats / max(counts["words"], 1)),
    }


def _exp(x: float) -> float:
    """e^x, no infinity: what is beyond float64 is given as its largest number, as JSON has no infinity."""
    return math.exp(min(x, 709.0))


def longest_copy(sample: str, training: Iterable[str]) -> str:
    """The longest passage of ``sample`` that stands in the training text, which is read once, in pieces.

    A passage is looked for only where it would be longer than the best so far, so one search a character of the
    sample and piece of the text is enough.
    """
    best, before = "", ""
    for piece in training:
        text = before + piece
        for start in range(len(sample)):
            while (end := start + len(best) + 1) <= len(sample) and sample[start:end] in text:
                best = sample[start:end]
        before = text[-len(sample) :]  # so that no passage is cut in two
    return best


def seen_lines(sample: str, training: Iterable[str]) -> tuple[int, int]:
    """How many lines of ``sample`` stand whole in training, of how many; the last (it is cut) and empty ones apart."""
    lines = [line for line in sample.split("\n")[:-1] if line.strip()]
    missing = set(lines)
    rest = ""
    for piece in training:
        *whole, rest = (rest + piece).split("\n")
        missing.difference_update(whole)
    missing.discard(rest)
    return sum(line not in missing for line in lines), len(lines)
