"""Examples in batches, each whole, none the continuation of another: pairs ``<s> source newline target </s>``, or
documents ``<s> text </s>``, which are targets without a source.

A batch has examples of similar lengths, padded on the right; the loss counts the ids of the targets alone (and, as the
recipe wants it, of the sources with a weight). Every example begins with an empty state.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.data.stream_windows import ALL, ENDLESS, PIECE, untuned
from keras_lstmgen.tokenizers.tokenizer import END, NEWLINE, START

POOL = 50  # batches whose examples are sorted by length together: enough for little padding, few enough to mix well


class Pairs(NamedTuple):
    """Where the examples are in the ids of a corpus."""

    ids: NDArray[np.integer]  # [N], mapped from the disk
    starts: NDArray[np.int64]  # [n + 1], where each begins and the last ends
    targets: NDArray[np.int64]  # [n], where the newline before each target stands; of documents their <s>


class Batch(NamedTuple):
    """What ``fit`` takes: B rows, T steps of the longest."""

    ids: NDArray[np.int32]  # [B, T]
    next_ids: NDArray[np.int32]  # [B, T]
    weights: NDArray[np.float32]  # [B, T], of the losses; 0 in the padding


def find(ids: NDArray[np.integer]) -> Pairs:
    """Find the examples, reading the ids in pieces. Raises ValueError if they are no pairs."""
    starts = np.append(_places(ids, START), len(ids))
    newlines = _places(ids, NEWLINE)
    last = np.searchsorted(newlines, starts[1:]) - 1  # of each example
    if (last < 0).any() or (newlines[last] < starts[:-1]).any():
        raise ValueError("an example has no newline between its source and its target")
    return Pairs(ids, starts, newlines[last])


def documents(ids: NDArray[np.integer]) -> Pairs:
    """Find the documents, reading the ids in pieces: examples that are all target."""
    starts = np.append(_places(ids, START), len(ids))
    return Pairs(ids, starts, starts[:-1])


def examples(ids: NDArray[np.integer], are_pairs: bool) -> Pairs:
    """Find what is read by itself: pairs, or documents."""
    return find(ids) if are_pairs else documents(ids)


def longest(documents: Pairs, share: float) -> int:
    """Ids to predict in the longest of them, leaving out a ``share`` of the longest ones."""
    return int(np.quantile(np.diff(documents.starts) - 1, 1 - share, method="inverted_cdf"))


def _places(ids: NDArray[np.integer], wanted: int) -> NDArray[np.int64]:
    pieces = (np.flatnonzero(ids[at : at + PIECE] == wanted) + at for at in range(0, len(ids), PIECE))
    return np.concatenate([np.zeros(0, np.int64), *pieces])


def count(pairs: Pairs) -> int:
    """Examples."""
    return len(pairs.targets)


def predicted(pairs: Pairs) -> int:
    """Ids of all targets, their ends among them."""
    return int((pairs.starts[1:] - pairs.targets - 1).sum())


def counting(pairs: Pairs, source_loss: float) -> NDArray[np.float64]:
    """What each example counts in the loss, whole: float64 [n]. A target's id counts 1, the start symbol nothing."""
    targets, whole = pairs.starts[1:] - pairs.targets - 1, np.diff(pairs.starts) - 1
    return targets + source_loss * (whole - targets)


def batches(pairs: Pairs, B: int) -> int:
    """Batches in an epoch; the last is filled with examples that the epoch has had."""
    return -(-count(pairs) // B)


def example(pairs: Pairs, number: int, most: int) -> tuple[NDArray[np.int32], int]:
    """The ids of an example, and how many stand before those of its target.

    Of more than ``most`` ids a source of one turn loses its end: what a text begins with says most of what it is about.
    One of several turns loses what comes first, behind its start symbol: its last turn is the one that is answered.
    """
    start, target, end = (int(at) for at in (pairs.starts[number], pairs.targets[number], pairs.starts[number + 1]))
    kept = min(target - start, max(most - (end - target), 1))
    source = pairs.ids[start:target]
    cut = len(source) - kept if NEWLINE in source else 0
    ids = np.concatenate([source[:1], source[cut + 1 : cut + kept], pairs.ids[target:end]])[:most]
    return ids.astype(np.int32), kept + 1


def batch(pairs: Pairs, numbers: NDArray[np.int64], T: int, source_loss: float = 0.0) -> Batch:
    """Lay examples side by side, of at most ``T`` steps. The weights are 1 for targets, ``source_loss`` for sources."""
    rows = [example(pairs, int(number), T + 1) for number in numbers]
    longest = max(len(ids) for ids, _ in rows)
    table = np.full((len(rows), longest), END, np.int32)
    weights = np.zeros((len(rows), longest - 1), np.float32)
    for row, (ids, before) in enumerate(rows):
        table[row, : len(ids)] = ids
        weights[row, : before - 1] = source_loss
        weights[row, before - 1 : len(ids) - 1] = 1
    return Batch(table[:, :-1], table[:, 1:], weights)


def dataset(
    pairs: Pairs,
    B: int,
    T: int,
    epochs: int,
    seed: int,
    *,
    source_loss: float = 0.0,
    first_batch: int = 0,
    rows: slice = ALL,
) -> tf.data.Dataset:
    """Yield ``epochs * batches`` of (ids, next ids, weights), [B, T'] with T' at most T; epochs = 0 never ends.

    Each epoch has every example, in an order that depends on (seed, epoch) alone. The weights are such that ``fit``,
    which takes the mean over the batch, divides all batches by the same number, what one counts on average: a batch of
    long targets counts for more than one of short ones, as in the loss of a text each token counts the same.
    With ``rows`` those of each batch.
    """
    count = len(range(B)[rows])
    total = epochs * batches(pairs, B) if epochs else ENDLESS
    counted = B * counting(pairs, source_loss).mean()
    order = lru_cache(maxsize=2)(lambda epoch: _order(pairs, B, seed, epoch))

    def gather(number: NDArray[np.int64]) -> Batch:
        epoch, within = divmod(int(number), batches(pairs, B))
        part = batch(pairs, order(epoch)[within], T, source_loss)
        part = part._replace(weights=part.weights * np.float32(part.weights.size / counted))
        return Batch._make(table[rows] for table in part)

    ds = tf.data.Dataset.range(first_batch, total)
    kinds = (tf.int32, tf.int32, tf.float32)
    ds = ds.map(lambda number: tf.numpy_function(gather, [number], kinds, stateful=False))
    ds = ds.map(lambda *parts: tuple(tf.ensure_shape(part, (count, None)) for part in parts))
    return ds.prefetch(8).with_options(untuned())


def _order(pairs: Pairs, B: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The examples of an epoch's batches [batches, B]: of similar lengths in each, all else by chance."""
    dice = np.random.default_rng([seed, epoch])
    n = batches(pairs, B)
    numbers = np.resize(dice.permutation(count(pairs)), n * B)
    lengths = np.diff(pairs.starts)
    pools = np.split(numbers, range(POOL * B, n * B, POOL * B))
    sorted_pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    return np.concatenate(sorted_pools).reshape(n, B)[dice.permutation(n)]


def shuffled(pairs: Pairs) -> Pairs:
    """The same targets, each with the source of another example: what a model loses that reads its source.

    It is the nearest example before it whose source differs (before the first one comes the last); where all sources
    are equal, its own.
    """
    sources = [pairs.ids[start:end] for start, end in zip(pairs.starts, pairs.targets, strict=False)]
    other = _nearest_other(sources)
    parts = []
    for number in range(count(pairs)):
        parts.append(sources[other[number]])
        parts.append(pairs.ids[pairs.targets[number] : pairs.starts[number + 1]])
    return find(np.concatenate(parts))


def _nearest_other(sources: list[NDArray[np.integer]]) -> list[int]:
    """For each source the nearest before it that differs, round and round: of a, b, b, c these are 3, 0, 0, 2."""
    other = list(range(len(sources)))
    for number in [*range(len(sources)), *range(len(sources))]:  # only the second round knows what is before the first
        same = np.array_equal(sources[number - 1], sources[number])
        other[number] = other[number - 1] if same else (number - 1) % len(sources)
    return other


def some(pairs: Pairs, tokens: int) -> Pairs:
    """The first examples, of at most so many ids, but one at least."""
    n = max(int(np.searchsorted(pairs.starts, tokens, side="right")) - 1, 1)
    return Pairs(pairs.ids[: pairs.starts[n]], pairs.starts[: n + 1], pairs.targets[:n])
