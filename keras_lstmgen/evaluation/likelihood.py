"""Compute the negative log-likelihood of text under a model, and convert it to other units."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.data.example_batches import Pairs
from keras_lstmgen.layers import native_ops
from keras_lstmgen.layers.attention import attend
from keras_lstmgen.layers.pointer_generator import in_windows, read_by
from keras_lstmgen.models.builder import Weights, join_state, score, split_state, state_size, together
from keras_lstmgen.tokenizers.tokenizer import END, Tokenizer
from keras_lstmgen.utils.errors import check_at_least

WINDOW = 256  # tokens of a row scored in one call, at most
CELLS = 1 << 25  # logits of one call, at most: bounds the memory with a large vocabulary
ROWS = 64  # examples scored side by side, at most
WARM_UP = WINDOW  # tokens read, not scored, before each part of a text that is scored in parts side by side
FRESH_WINDOWS = 1000


def scorer(weights: Weights) -> Callable[..., Any]:
    """Compile ``score`` for a model's weights; traced once, for any B and P.

    Where the compiled kernel is, layer after layer reads the whole window, with the same result.
    """
    read = _read if native_ops.library() and not tf.config.list_logical_devices("GPU") else score
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
        x, h, c = native_ops.lstm(x, h, c, *cell)
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
    check_at_least("parts", parts, 1)
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


def examples_nats(
    weights: Weights, pairs: Pairs, call: Callable[..., Any], advance: Callable[[int], None] = lambda _: None
) -> float:
    """Return the negative log-likelihood of all targets, each given its source, in nats.

    Examples of similar lengths are read side by side, window after window with the state carried, so that memory does
    not grow with their length.

    Args:
        weights: of the model.
        pairs: the examples.
        call: the compiled function that ``scorer`` returned.
        advance: called with the number of examples scored.
    """
    total, V = 0.0, int(weights.output_bias.shape[0])
    for numbers in _by_length(pairs, V):
        state: Any = tf.zeros((len(numbers), state_size(weights)))
        longest = int(np.diff(pairs.starts)[numbers].max())
        window = scored_window(V, len(numbers))
        for first in range(0, longest - 1, window):
            ids, is_target = _window(pairs, numbers, first, min(window, longest - 1 - first))
            logprobs, state = call(ids, state)
            total -= float(np.sum(logprobs.numpy(), where=is_target, dtype=np.float64))
        advance(len(numbers))
    return total


def scored_window(V: int, B: int) -> int:
    """Return how many tokens of each of B rows to score in one call: a power of two, at most ``WINDOW``."""
    most = CELLS // (B * V)
    return min(WINDOW, 1 << max(most.bit_length() - 1, 0))


def _window(
    pairs: Pairs, numbers: NDArray[np.int64], first: int, T: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return int32 [B, T + 1] ids of examples from their id ``first`` on, and bool [B, T], which of them are targets.

    Behind the end of an example stand end symbols. The first id is read, not predicted.
    """
    starts, ends = pairs.starts[numbers, np.newaxis], pairs.starts[numbers + 1, np.newaxis]
    places = starts + np.arange(first, first + T + 1)
    ids = np.where(places < ends, pairs.ids[np.minimum(places, ends - 1)], END)
    is_target = (places > pairs.targets[numbers, np.newaxis]) & (places < ends)
    return ids.astype(np.int32), is_target[:, 1:]


def _by_length(pairs: Pairs, V: int) -> Iterator[NDArray[np.int64]]:
    """Yield all examples, the longest first, in batches of similar lengths whose logits are not too many."""
    lengths = np.diff(pairs.starts)
    order = np.argsort(lengths, kind="stable")
    while len(order):
        rows = max(1, min(ROWS, CELLS // (V * min(int(lengths[order[-1]]), WINDOW))))
        order, part = order[:-rows], order[-rows:]
        yield part


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
        check_at_least(name, value, low)
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
