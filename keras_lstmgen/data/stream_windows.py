"""Create training windows of a continuous text for a stateful LSTM.

An epoch divides the text into B contiguous streams of equal length. Each batch contains the next T tokens of every
stream, so a model that carries its state from batch to batch reads every stream from beginning to end. In every epoch,
the first stream begins at a newly drawn random position, which is called the offset.
"""

import mmap
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.data.sharded_array import Shards
from keras_lstmgen.utils.errors import UserError

ENDLESS = 1 << 62  # number of batches of a dataset without an end
ALL = slice(None)
PIECE = 1 << 20  # number of ids that are read at a time
RELEASE_INTERVAL = 256  # number of windows between two releases of memory-mapped pages


class Batching(NamedTuple):
    """Sizes, number and order of the batches of a dataset.

    Attributes:
        B: number of rows in a batch, summed over all workers.
        T: maximum number of time steps in a batch.
        epochs: number of epochs, or 0 for an infinite dataset.
        seed: random seed, which determines the order of the examples or the offsets of the streams.
        first: number of batches to skip at the beginning, without reading their ids.
        rows: the rows that this worker reads from each batch, as a slice.
    """

    B: int
    T: int
    epochs: int
    seed: int
    first: int = 0
    rows: slice = ALL


def windows_per_epoch(tokens: int, B: int, T: int) -> int:
    """Return the number of windows per epoch, at least 1.

    If the text is long enough, at least T tokens are in no stream, so that the offset can vary.

    Args:
        tokens: number of ids of the text.
        B: number of streams.
        T: number of time steps in a window.

    Raises:
        UserError: if the text has fewer than B * T + 1 tokens.

    >>> from keras_lstmgen.data.stream_windows import windows_per_epoch
    >>> windows_per_epoch(100, B=2, T=5)
    9
    """
    if tokens < B * T + 1:
        raise UserError(
            f"the training text has {tokens} tokens, but a window of {T} for each of {B} streams takes "
            f"{B * T + 1}; lower training.batch_size or training.window, or give more text"
        )
    return max((tokens - T) // (B * T), 1)


def dataset(ids: NDArray[np.integer], batching: Batching, shifted: bool = True) -> tf.data.Dataset:
    """Create a dataset of ``epochs * windows_per_epoch`` windows.

    Within an epoch, row b of window n + 1 continues row b of window n. The offset of an epoch depends only on the seed
    and the epoch. The text does not have to fit into memory, because only B * (T + 1) ids are read for each window.

    Args:
        ids: integer array of shape [N] with the ids of the training text. It may be memory-mapped from a file.
        batching: sizes, number and order of the batches.
        shifted: True for a random offset in each epoch, False for an offset of 0 in all epochs.

    Returns:
        A dataset of pairs (ids, next ids). Both are int32 of shape [rows, T].
    """
    B, T, epochs, seed, first, rows = batching
    total = epochs * windows_per_epoch(len(ids), B, T) if epochs else ENDLESS
    count = len(range(B)[rows])

    def gather(window: NDArray[np.int64]) -> NDArray[np.int32]:
        if window % RELEASE_INTERVAL == 0:
            release_pages(ids)
        return np.asarray(ids[positions(int(window), len(ids), B, T, seed if shifted else None)[rows]], np.int32)

    ds = tf.data.Dataset.range(first, total)
    ds = ds.map(lambda window: tf.numpy_function(gather, [window], tf.int32, stateful=False))
    ds = ds.map(lambda both: (tf.ensure_shape(both[:, :-1], (count, T)), tf.ensure_shape(both[:, 1:], (count, T))))
    return ds.prefetch(8).with_options(untuned())


def untuned() -> tf.data.Options:
    """Return options that disable autotuning of a dataset.

    Autotuning is disabled because deleting an autotuned dataset can block the program for up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def counts(ids: NDArray[np.integer], V: int) -> NDArray[np.int64]:
    """Return the number of occurrences of each id, an int64 array of shape [V]. The ids are read in pieces."""
    return sum((np.bincount(piece, minlength=V) for piece in pieces(ids)), np.zeros(V, np.int64))


def pieces(ids: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """Yield all ids in pieces. The memory of each piece is released before the next piece is read."""
    for start in range(0, len(ids), PIECE):
        yield ids[start : start + PIECE]
        release_pages(ids)


def release_pages(ids: NDArray[np.integer]) -> None:
    """Release the pages of a memory-mapped array, so that they do not count as memory of this process.

    The operating system keeps the pages in its cache and maps them again on the next access.
    """
    if isinstance(ids, Shards):
        ids.release_pages()
    owner: object = ids
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def positions(window: int, tokens: int, B: int, T: int, seed: int | None) -> NDArray[np.int64]:
    """For each token of a window, return its position in the text.

    Args:
        window: index of the window, counted over all epochs.
        tokens: number of ids of the text.
        B: number of streams.
        T: number of time steps in a window.
        seed: random seed of the offsets, or None for an offset of 0 in all epochs.

    Returns:
        An int64 array of shape [B, T + 1]. The first T columns are the positions of the ids. The last T columns are the
        positions of the next ids.

    >>> from keras_lstmgen.data.stream_windows import positions
    >>> positions(1, tokens=20, B=2, T=3, seed=None).tolist()
    [[3, 4, 5, 6], [9, 10, 11, 12]]
    """
    count = windows_per_epoch(tokens, B, T)
    epoch, within = divmod(window, count)
    slack = tokens - 1 - B * T * count
    offset = 0 if seed is None else np.random.default_rng([seed, epoch]).integers(slack + 1)
    starts = offset + T * (count * np.arange(B) + within)
    return starts[:, None] + np.arange(T + 1)
