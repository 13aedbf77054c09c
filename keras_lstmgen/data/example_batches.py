"""Create batches of separate examples for training and evaluation.

An example is a pair with the ids ``<s> source newline target </s>``, or a document with the ids ``<s> text </s>``. A
document has no source, so its whole text is the target. A batch contains examples of similar lengths, padded on the
right. Every example starts with a zero LSTM state. In the loss, a token of a target has weight 1, and a token of a
source has the weight ``training.source_loss``.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.data.stream_windows import ENDLESS, PIECE, Batching, untuned
from keras_lstmgen.tokenizers.tokenizer import END, NEWLINE, START

# Number of batches whose examples are sorted by length together. A larger number reduces the padding, but makes the
# combination of examples in a batch less random.
POOL = 50


class Examples(NamedTuple):
    """The ids of a corpus, and the positions of its n examples in them.

    Attributes:
        ids: integer array of shape [N] with the token ids of the corpus. It may be memory-mapped from a file.
        starts: int64 array of shape [n + 1] with the position of the start symbol of each example. The last entry is N.
        targets: int64 array of shape [n] with the position of the token before each target. In a pair, this token is
            the newline between source and target. In a document, this token is the start symbol.
    """

    ids: NDArray[np.integer]
    starts: NDArray[np.int64]
    targets: NDArray[np.int64]


class Batch(NamedTuple):
    """One batch of B examples, in the format of ``keras.Model.fit``. T is the length of the longest example.

    Attributes:
        ids: int32 array of shape [B, T] with the input tokens.
        next_ids: int32 array of shape [B, T] with the token that follows each input token.
        weights: float32 array of shape [B, T] with the weight of each token in the loss. Padding has weight 0.
    """

    ids: NDArray[np.int32]
    next_ids: NDArray[np.int32]
    weights: NDArray[np.float32]


def find_pairs(ids: NDArray[np.integer]) -> Examples:
    """Find the pairs in the ids of a corpus. To limit the memory use, the ids are read in pieces.

    Args:
        ids: integer array of shape [N] with the token ids of the corpus.

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
    last = np.searchsorted(newlines, starts[1:]) - 1  # for each example, the index of its last newline in ``newlines``
    if (last < 0).any() or (newlines[last] < starts[:-1]).any():
        raise ValueError("an example has no newline between its source and its target")
    return Examples(ids, starts, newlines[last])


def find_documents(ids: NDArray[np.integer]) -> Examples:
    """Find the documents in the ids of a corpus. To limit the memory use, the ids are read in pieces.

    Args:
        ids: integer array of shape [N] with the token ids of the corpus.

    >>> import numpy as np
    >>> from keras_lstmgen.data.example_batches import find_documents
    >>> find_documents(np.array([1, 7, 8, 2, 1, 9, 2])).starts.tolist()  # <s> is 1, </s> is 2
    [0, 4, 7]
    """
    starts = np.append(_positions(ids, START), len(ids))
    return Examples(ids, starts, starts[:-1])


def find_examples(ids: NDArray[np.integer], are_pairs: bool) -> Examples:
    """Find the pairs or the documents in the ids of a corpus.

    Args:
        ids: integer array of shape [N] with the token ids of the corpus.
        are_pairs: True to find pairs, False to find documents.

    Raises:
        ValueError: if a pair has no newline between its source and its target.
    """
    return find_pairs(ids) if are_pairs else find_documents(ids)


def _positions(ids: NDArray[np.integer], token: int) -> NDArray[np.int64]:
    """Return all positions of a token, an int64 array of shape [count]. The ids are read in pieces."""
    pieces = (np.flatnonzero(ids[at : at + PIECE] == token) + at for at in range(0, len(ids), PIECE))
    return np.concatenate([np.zeros(0, np.int64), *pieces])


def length_quantile(examples: Examples, left_out: float) -> int:
    """Return a quantile of the lengths of the examples.

    The length of an example is its number of predicted tokens.

    Args:
        examples: the examples.
        left_out: share of the examples that may be longer than the result, from 0 to 1.
    """
    return int(np.quantile(np.diff(examples.starts) - 1, 1 - left_out, method="inverted_cdf"))


def count(examples: Examples) -> int:
    """Return the number of examples."""
    return len(examples.targets)


def target_tokens(examples: Examples) -> int:
    """Return the number of tokens in all targets, including their end symbols."""
    return int((examples.starts[1:] - examples.targets - 1).sum())


def loss_weights(examples: Examples, source_loss: float) -> NDArray[np.float64]:
    """For each example, return the sum of the loss weights of its tokens.

    A token of a target has weight 1, and a token of a source has weight ``source_loss``. The start symbol is not
    predicted, so it has no weight.

    Args:
        examples: n examples.
        source_loss: weight of a token of a source.

    Returns:
        A float64 array of shape [n].
    """
    targets, whole = examples.starts[1:] - examples.targets - 1, np.diff(examples.starts) - 1
    return targets + source_loss * (whole - targets)


def batches_per_epoch(examples: Examples, B: int) -> int:
    """Return the number of batches per epoch.

    If the number of examples is not a multiple of B, the last batch repeats examples of the same epoch.

    Args:
        examples: the examples.
        B: number of examples in a batch.
    """
    return -(-count(examples) // B)


def truncated(examples: Examples, number: int, max_tokens: int) -> tuple[NDArray[np.int32], int]:
    """Return the ids of one example, truncated to a maximum number of tokens.

    If the example is too long, its source is truncated first. A source of one turn is truncated at the end, because the
    beginning of a text usually names its subject. A source of several turns is truncated at the beginning, because the
    target answers the last turn.

    Args:
        examples: all examples.
        number: index of the example.
        max_tokens: maximum number of ids.

    Returns:
        The ids, an int32 array of shape [length], and the number of ids before the first id of the target.
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
    """Create one batch of examples, padded to the length of the longest example.

    Args:
        examples: all examples.
        numbers: int64 array of shape [B] with the indices of the examples in the batch.
        T: maximum number of time steps. Longer examples are truncated.
        source_loss: loss weight of a token of a source. A token of a target has weight 1.
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
    """Create a dataset of ``epochs * batches_per_epoch`` batches.

    Each epoch contains every example, in an order that depends only on the seed and the epoch.

    ``fit`` divides the loss of a batch by the number of positions in the batch, including padding. Tokens in batches
    with much padding would therefore count less. To prevent this, the weights are scaled so that the loss of every
    batch is divided by the same number: the mean total weight of a batch.

    Args:
        examples: the examples.
        batching: sizes, number and order of the batches.
        source_loss: loss weight of a token of a source. A token of a target has weight 1.

    Returns:
        A dataset of triples (ids, next ids, weights). Each has the shape [rows, T'], with T' at most T. The dtypes are
        int32, int32 and float32.
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
    """For each batch of an epoch, return the indices of its examples, an int64 array of shape [batches, B].

    The order is random, but the examples in a batch have similar lengths.
    """
    rng = np.random.default_rng([seed, epoch])
    n = batches_per_epoch(examples, B)
    numbers = np.resize(rng.permutation(count(examples)), n * B)
    lengths = np.diff(examples.starts)
    pools = np.split(numbers, range(POOL * B, n * B, POOL * B))
    sorted_pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    return np.concatenate(sorted_pools).reshape(n, B)[rng.permutation(n)]


def with_other_sources(examples: Examples) -> Examples:
    """Return the same targets, each combined with the source of another example.

    If a model uses the sources, its loss on these examples is higher than on the original examples. Each target
    gets the source of the nearest previous example whose source is different. The examples form a circle, in which the
    last example precedes the first. If all sources are equal, the examples do not change.
    """
    sources = [examples.ids[start:end] for start, end in zip(examples.starts, examples.targets, strict=False)]
    other = _nearest_other(sources)
    parts = []
    for number in range(count(examples)):
        parts.append(sources[other[number]])
        parts.append(examples.ids[examples.targets[number] : examples.starts[number + 1]])
    return find_pairs(np.concatenate(parts))


def _nearest_other(sources: list[NDArray[np.integer]]) -> list[int]:
    """For each source, return the index of the nearest previous source that differs from it.

    For the sources a, b, b, c, the result is [3, 0, 0, 2].
    """
    other = list(range(len(sources)))
    # A second pass is necessary because the last source precedes the first one. The result of a source can therefore
    # depend on the results of later sources.
    for number in [*range(len(sources)), *range(len(sources))]:
        same = np.array_equal(sources[number - 1], sources[number])
        other[number] = other[number - 1] if same else (number - 1) % len(sources)
    return other


def first_examples(examples: Examples, tokens: int) -> Examples:
    """Return as many examples from the start as fit into ``tokens`` ids, but at least one."""
    n = max(int(np.searchsorted(examples.starts, tokens, side="right")) - 1, 1)
    return Examples(examples.ids[: examples.starts[n]], examples.starts[: n + 1], examples.targets[:n])
