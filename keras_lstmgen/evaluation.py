"""How good a model is: its loss on a text it has not seen, and how much of what it writes is copied."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen import kernel
from keras_lstmgen.attention import attend
from keras_lstmgen.encoding import batches
from keras_lstmgen.errors import at_least
from keras_lstmgen.model import Weights, join_state, score, split_state, state_size, together
from keras_lstmgen.pairs import CELLS, WINDOW, scored_window
from keras_lstmgen.pointer import in_windows, read_by
from keras_lstmgen.tokenizer import Tokenizer

WARM_UP = WINDOW  # tokens read, not scored, before each part of a text that is scored in parts side by side
FRESH_WINDOWS = 1000


def scorer(weights: Weights) -> Callable[..., Any]:
    """Compile ``score`` for a model's weights; traced once, for any B and P.

    Where the compiled kernel is, layer after layer reads the whole window, with the same result.
    """
    read = _read if kernel.library() and not tf.config.list_logical_devices("GPU") else score
    return tf.function(lambda ids, state: read(weights, ids, state), reduce_retracing=True, autograph=False)


def _read(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """What ``score`` gives."""
    logits, state = together(weights, lambda member, part: _logits(member, ids[:, :-1], part), state)
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits), state


def _logits(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """What a member gives for each of int32 [B, T]: logits [B, T, V], and its state."""
    x, carried = tf.gather(weights.embedding, ids), []
    parts, memory = split_state(weights, state)
    for cell, h, c in zip(weights.cells, parts[::2], parts[1::2], strict=True):
        x, h, c = kernel.lstm(x, h, c, *cell)
        carried += [h, c]
    if weights.heads:
        before = memory
        x, memory, looks = attend(weights.heads, x, before, ids if weights.gate else None)
    logits = tf.einsum("bth,vh->btv" if weights.tied else "bth,hv->btv", x, weights.output) + weights.output_bias
    if weights.gate:
        logits = in_windows(weights.gate, x, logits, looks, read_by(before, ids))
    return logits, join_state(carried, memory)


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
    at_least("parts", parts, 1)
    call = call or scorer(weights)
    N = len(ids) - 1
    length = -(-N // parts)  # targets of a part; the last may have fewer
    warm = WARM_UP if parts > 1 else 0
    first = np.arange(parts)[:, np.newaxis] * length - warm
    state = tf.zeros((parts, state_size(weights)))
    total = 0.0
    window = scored_window(int(weights.output_bias.shape[0]), parts)  # a power of two: WARM_UP ends with a window
    for start in range(0, warm + length, window):
        at = first + np.arange(start, min(start + window, warm + length) + 1)[np.newaxis, :]
        if start == warm:  # the first part has no text before it
            state *= (np.arange(parts) > 0)[:, np.newaxis]
        logprobs, state = call(np.asarray(ids[np.clip(at, 0, N)], np.int32), state)
        target = at[:, 1:]
        mine = (target > first + warm) & (target <= N)
        total -= float(np.sum(logprobs.numpy(), where=mine, dtype=np.float64))
        advance(int(mine.sum()))
    return total


def fresh_nats(
    weights: Weights,
    ids: np.ndarray[Any, Any],
    length: int = 256,
    windows: int = FRESH_WINDOWS,
    call: Callable[..., Any] | None = None,
) -> float:
    """Mean nats per token over random windows of ``length`` targets, each read from an empty state.

    This is how transformers are measured that see no further than a window (nanoGPT's ``estimate_loss``): higher than
    with the state carried. The windows are seeded, and may overlap; where the text has no more than ``windows``, it is
    each of them once. A text shorter than a window is one.
    """
    for name, value, low in (("ids: their number", len(ids), 2), ("length", length, 1), ("windows", windows, 1)):
        at_least(name, value, low)
    call = call or scorer(weights)
    length = min(length, len(ids) - 1)
    possible = len(ids) - length
    few = possible <= windows
    starts = np.arange(possible) if few else np.random.default_rng(0).integers(possible, size=windows)
    rows = max(1, min(64, CELLS // (length * int(weights.output_bias.shape[0]))))
    total = 0.0
    for some in np.split(starts, range(rows, len(starts), rows)):
        at = some[:, np.newaxis] + np.arange(length + 1)
        logprobs, _ = call(np.asarray(ids[at], np.int32), tf.zeros((len(some), state_size(weights))))
        total -= float(np.sum(logprobs.numpy(), dtype=np.float64))
    return total / (len(starts) * length)


def predicted(counts: dict[str, int], first: int, tokenizer: Tokenizer) -> dict[str, int]:
    """Return the counts of a stream without its first token, which is read but not predicted."""
    text = tokenizer.piece_bytes(first)
    less = {"tokens": 1, "characters": len(text.decode("utf-8", "ignore")), "bytes": len(text)}
    return counts | {name: counts[name] - number for name, number in less.items()}


def measures(nats: float, counts: dict[str, int]) -> dict[str, float]:
    """A text's loss in every unit; ``counts`` has its tokens, characters, bytes and words.

    nats per token, bits per character and byte, perplexity per token and per word.
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


def longest_copies(samples: Sequence[str], training: Iterable[str]) -> list[str]:
    """Return for each sample its longest passage that stands in the training text, which is read once, in pieces.

    A passage is looked for only where it would be longer than the best so far, so one search for each character of the
    samples and piece of the text is enough. Short pieces are joined first.
    """
    best, before = [""] * len(samples), ""
    kept = max(map(len, samples), default=0)
    for pieces in batches(training):
        text = before + "".join(pieces)
        best = [_longer_copy(sample, copy, text) for sample, copy in zip(samples, best, strict=True)]
        before = text[max(len(text) - kept, 0) :]  # so that no passage is cut in two
    return best


def _longer_copy(sample: str, best: str, text: str) -> str:
    """Return the first longest passage of a sample that stands in a text and is longer than ``best``, or ``best``."""
    for start in range(len(sample)):
        while (end := start + len(best) + 1) <= len(sample) and sample[start:end] in text:
            best = sample[start:end]
    return best


def whole_lines(sample: str) -> list[str]:
    """Return the lines of a sample but the last, which is cut, and empty ones."""
    return [line for line in sample.split("\n")[:-1] if line.strip()]


def lines_seen(lines: Iterable[str], training: Iterable[str]) -> set[str]:
    """Return those of these lines that stand whole in the training text, which is read once, in pieces.

    Memory is bounded by the lines: a longer one of the training text is none of them, and is not kept whole.
    """
    wanted = set(lines)
    missing, most = set(wanted), max(map(len, wanted), default=0) + 1
    rest = ""  # the line that the next piece goes on with, as far as it matters
    for piece in training:
        first, *others = piece.split("\n")
        rest = (rest + first[:most])[:most]
        if others:
            missing -= {rest, *others[:-1]}
            rest = others[-1][:most]
    return wanted - (missing - {rest})
