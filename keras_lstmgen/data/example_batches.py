"""Batches of separate examples: pairs ``<s> source newline target </s>`` or documents ``<s> text </s>``.

A batch contains examples of similar lengths, padded on the right. Every example starts with a zero state. The loss
covers the tokens of the targets, and those of the sources with the weight ``training.source_loss``. A document is an
example without a source.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.data.stream_windows import ENDLESS, PIECE, Batching, untuned
from keras_lstmgen.tokenizers.tokenizer import END, NEWLINE, START

POOL = 50  # batches whose examples are sorted by length together; a larger pool has less padding but mixes less


class Examples(NamedTuple):
    """Positions of examples in the ids of a corpus.

    Attributes:
        ids: integer [N], token ids of the corpus, which may be mapped from a file.
        starts: int64 [n + 1], position of the start symbol of each example, and N.
        targets: int64 [n], position of the newline before each target; of a document, of its start symbol.
    """

    ids: NDArray[np.integer]
    starts: NDArray[np.int64]
    targets: NDArray[np.int64]


class Batch(NamedTuple):
    """One batch as ``keras.Model.fit`` takes it: B examples, T steps of the longest one.

    Attributes:
        ids: int32 [B, T], input tokens.
        next_ids: int32 [B, T], correct outputs.
        weights: float32 [B, T], weights of the losses; 0 in the padding.
    """

    ids: NDArray[np.int32]
    next_ids: NDArray[np.int32]
    weights: NDArray[np.float32]


def find_pairs(ids: NDArray[np.integer]) -> Examples:
    """Find the pairs in the ids of a corpus, reading them in pieces.

    Raises:
        ValueError: if an example has no newline between its source and its target.

    >>> import numpy as np
    >>> from keras_lstmgen.data.example_batches import find_pairs
    >>> examples = find_pairs(np.array([1, 7, 3, 8, 2, 1, 7, 3, 9, 9, 2]))  # <s> is 1, </s> is 2, newline is 3
    >>> examples.starts.tolist(), examples.targets.tolist()
    ([0, 5, 11], [2, 7])
    """
    starts = np.append(_positions(ids, START), len(ids))
    newlines = _positions(ids, NEWLINE)
    last = np.searchsorted(newlines, starts[1:]) - 1  # index of the last newline of each example
    if (last < 0).any() or (newlines[last] < starts[:-1]).any():
        raise ValueError("an example has no newline between its source and its target")
    return Examples(ids, starts, newlines[last])


def find_documents(ids: NDArray[np.integer]) -> Examples:
    """Find the documents in the ids of a corpus, reading them in pieces.

    >>> import numpy as np
    >>> from keras_lstmgen.data.example_batches import find_documents
    >>> find_documents(np.array([1, 7, 8, 2, 1, 9, 2])).starts.tolist()  # <s> is 1, </s> is 2
    [0, 4, 7]
    """
    starts = np.append(_positions(ids, START), len(ids))
    return Examples(ids, starts, starts[:-1])


def find_examples(ids: NDArray[np.integer], are_pairs: bool) -> Examples:
    """Find the pairs or the documents in the ids of a corpus.

    Raises:
        ValueError: if an example of a corpus of pairs has no newline.
    """
    return find_pairs(ids) if are_pairs else find_documents(ids)


def _positions(ids: NDArray[np.integer], token: int) -> NDArray[np.int64]:
    """Return the positions of a token, reading the ids in pieces."""
    pieces = (np.flatnonzero(ids[at : at + PIECE] == token) + at for at in range(0, len(ids), PIECE))
    return np.concatenate([np.zeros(0, np.int64), *pieces])


def length_quantile(examples: Examples, left_out: float) -> int:
    """Return the number of predicted tokens that all examples have at most, except a share of the longest ones."""
    return int(np.quantile(np.diff(examples.starts) - 1, 1 - left_out, method="inverted_cdf"))


def count(examples: Examples) -> int:
    """Return the number of examples."""
    return len(examples.targets)


def target_tokens(examples: Examples) -> int:
    """Return the number of tokens in all targets, including their end symbols."""
    return int((examples.starts[1:] - examples.targets - 1).sum())


def loss_weights(examples: Examples, source_loss: float) -> NDArray[np.float64]:
    """Return the total weight of each example in the loss, float64 [n].

    A token of a target has weight 1, a token of a source has weight ``source_loss``, and the start symbol has none.
    """
    targets, whole = examples.starts[1:] - examples.targets - 1, np.diff(examples.starts) - 1
    return targets + source_loss * (whole - targets)


def batches_per_epoch(examples: Examples, B: int) -> int:
    """Return the number of batches per epoch; the last one is filled with examples that the epoch already has."""
    return -(-count(examples) // B)


def truncated(examples: Examples, number: int, max_tokens: int) -> tuple[NDArray[np.int32], int]:
    """Return the ids of one example, and how many of them precede those of its target.

    An example that is too long is shortened in its source. A source of one turn loses its end, because the beginning of
    a text usually names its subject. A source of several turns loses its first tokens, because the target answers the
    last turn.

    Args:
        examples: all examples.
        number: index of the example.
        max_tokens: maximum number of ids.
    """
    start, target, end = (
        int(at) for at in (examples.starts[number], examples.targets[number], examples.starts[number + 1])
    )
    length = min(target - start, max(max_tokens - (end - target), 1))
    source = examples.ids[start:target]
    cut = len(source) - length if NEWLINE in source else 0
    ids = np.concatenate([source[:1], source[cut + 1 : cut + length], examples.ids[target:end]])[:max_tokens]
    return ids.astype(np.int32), length + 1


def padded_batch(examples: Examples, numbers: NDArray[np.int64], T: int, source_loss: float = 0.0) -> Batch:
    """Put examples into one batch and pad them to the length of the longest.

    Args:
        examples: all examples.
        numbers: int64 [B], indices of the examples.
        T: maximum number of time steps; longer examples are truncated.
        source_loss: weight of the tokens of the sources; those of the targets have weight 1.
    """
    rows = [truncated(examples, int(number), T + 1) for number in numbers]
    longest = max(len(ids) for ids, _ in rows)
    table = np.full((len(rows), longest), END, np.int32)
    weights = np.zeros((len(rows), longest - 1), np.float32)
    for row, (ids, before) in enumerate(rows):
        table[row, : len(ids)] = ids
        weights[row, : before - 1] = source_loss
        weights[row, before - 1 : len(ids) - 1] = 1
    return Batch(table[:, :-1], table[:, 1:], weights)


def dataset(examples: Examples, batching: Batching, source_loss: float = 0.0) -> tf.data.Dataset:
    """Create a dataset of ``epochs * batches_per_epoch`` triples (ids, next ids, weights).

    Each epoch contains every example, in an order that depends only on the seed and the epoch.

    ``fit`` divides the loss of a batch by its number of positions. The weights are scaled so that all batches are
    divided by the same number instead, the average weight of a batch. Every token therefore counts equally, as in the
    loss of a text.

    Args:
        examples: the examples.
        batching: sizes, number and order of the batches.
        source_loss: weight of the tokens of the sources; those of the targets have weight 1.

    Returns:
        A dataset of int32, int32 and float32 [rows, T'], with T' at most T.
    """
    B, T, epochs, seed, first, rows = batching
    count = len(range(B)[rows])
    total = epochs * batches_per_epoch(examples, B) if epochs else ENDLESS
    mean_weight = B * loss_weights(examples, source_loss).mean()
    order = lru_cache(maxsize=2)(lambda epoch: _order(examples, B, seed, epoch))

    def gather(number: NDArray[np.int64]) -> Batch:
        epoch, within = divmod(int(number), batches_per_epoch(examples, B))
        part = padded_batch(examples, order(epoch)[within], T, source_loss)
        part = part._replace(weights=part.weights * np.float32(part.weights.size / mean_weight))
        return Batch._make(table[rows] for table in part)

    ds = tf.data.Dataset.range(first, total)
    types = (tf.int32, tf.int32, tf.float32)
    ds = ds.map(lambda number: tf.numpy_function(gather, [number], types, stateful=False))
    ds = ds.map(lambda *parts: tuple(tf.ensure_shape(part, (count, None)) for part in parts))
    return ds.prefetch(8).with_options(untuned())


def _order(examples: Examples, B: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the examples of each batch of an epoch, int64 [batches, B]: random, with similar lengths in a batch."""
    rng = np.random.default_rng([seed, epoch])
    n = batches_per_epoch(examples, B)
    numbers = np.resize(rng.permutation(count(examples)), n * B)
    lengths = np.diff(examples.starts)
    pools = np.split(numbers, range(POOL * B, n * B, POOL * B))
    sorted_pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    return np.concatenate(sorted_pools).reshape(n, B)[rng.permutation(n)]


def with_other_sources(examples: Examples) -> Examples:
    """Return the same targets, each with the source of another example.

    The higher loss on them shows how much a model uses its sources. The other example is the nearest previous one with
    a different source; the last example precedes the first. If all sources are equal, nothing changes.
    """
    sources = [examples.ids[start:end] for start, end in zip(examples.starts, examples.targets, strict=False)]
    other = _nearest_other(sources)
    parts = []
    for number in range(count(examples)):
        parts.append(sources[other[number]])
        parts.append(examples.ids[examples.targets[number] : examples.starts[number + 1]])
    return find_pairs(np.concatenate(parts))


def _nearest_other(sources: list[NDArray[np.integer]]) -> list[int]:
    """Return for each source the index of the nearest previous different one: [3, 0, 0, 2] for a, b, b, c."""
    other = list(range(len(sources)))
    # The first pass does not yet know which source precedes the first one; the second pass does.
    for number in [*range(len(sources)), *range(len(sources))]:
        same = np.array_equal(sources[number - 1], sources[number])
        other[number] = other[number - 1] if same else (number - 1) % len(sources)
    return other


def first_examples(examples: Examples, tokens: int) -> Examples:
    """Return the first examples that have at most ``tokens`` ids together, but at least one."""
    n = max(int(np.searchsorted(examples.starts, tokens, side="right")) - 1, 1)
    return Examples(examples.ids[: examples.starts[n]], examples.starts[: n + 1], examples.targets[:n])
