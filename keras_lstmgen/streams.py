"""Ids in windows for training: B streams side by side, each the continuation of its window before.

An epoch cuts the text into B streams of equal length and walks down all of them, T steps at a time, so that a
state carried from window to window has read everything before it. Where the streams begin changes each epoch.
"""

import mmap
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.errors import UserError
from keras_lstmgen.shards import Shards

ENDLESS = 1 << 62  # windows
ALL = slice(None)
PIECE = 1 << 20  # ids read at once
KEPT = 256  # windows, after which the pages they were read from are let go of


def windows(tokens: int, B: int, T: int) -> int:
    """Windows in an epoch, the same in each: as many as leave T offsets to begin at, but at least one.

    Raises UserError if B windows of T steps and their next ids are more than there are tokens.
    """
    if tokens < B * T + 1:
        raise UserError(
            f"the training text has {tokens} tokens, but a window of {T} for each of {B} streams takes "
            f"{B * T + 1}; lower training.batch_size or training.window, or give more text"
        )
    return max((tokens - T) // (B * T), 1)


def dataset(
    ids: NDArray[np.integer],
    B: int,
    T: int,
    epochs: int,
    seed: int,
    first_window: int = 0,
    rows: slice = ALL,
    shifted: bool = True,
) -> tf.data.Dataset:
    """Yield ``epochs * windows`` pairs (ids, next ids), int32 (B,T) each; epochs = 0 never ends.

    Within an epoch row b of window n + 1 goes on where row b of window n ended. The offset of an epoch
    depends on (seed, epoch) alone, and is 0 unless ``shifted``. ``first_window`` leaves out as many windows at the
    start, unread; ``rows`` all other rows.
    ``ids`` may be mapped from the disk: B * (T + 1) of them are read for a window, on its turn.
    """
    total = epochs * windows(len(ids), B, T) if epochs else ENDLESS
    count = len(range(B)[rows])

    def gather(window: NDArray[np.int64]) -> NDArray[np.int32]:
        if window % KEPT == 0:
            let_go(ids)
        return np.asarray(ids[positions(int(window), len(ids), B, T, seed if shifted else None)[rows]], np.int32)

    ds = tf.data.Dataset.range(first_window, total)
    ds = ds.map(lambda window: tf.numpy_function(gather, [window], tf.int32, stateful=False))
    ds = ds.map(lambda both: (tf.ensure_shape(both[:, :-1], (count, T)), tf.ensure_shape(both[:, 1:], (count, T))))
    return ds.prefetch(8).with_options(untuned())


def untuned() -> tf.data.Options:
    """No tuning of the pipeline while it runs: whoever lets go of it would wait for the tuner, up to a minute."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def counts(ids: NDArray[np.integer], V: int) -> NDArray[np.int64]:
    """How often each id occurs, int64 (V,); read in pieces."""
    return sum((np.bincount(piece, minlength=V) for piece in pieces(ids)), np.zeros(V, np.int64))


def pieces(ids: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """All ids in their order, each piece let go of when the next is asked for."""
    for start in range(0, len(ids), PIECE):
        yield ids[start : start + PIECE]
        let_go(ids)


def let_go(ids: NDArray[np.integer]) -> None:
    """Unmap the pages that were read of mapped ids: else a process comes to hold the whole file, as far as it counts.

    The system keeps them in its cache as long as it has no better use for the memory, and maps them again when asked.
    """
    if isinstance(ids, Shards):
        ids.let_go()
    below: object = ids
    while isinstance(below, np.ndarray):
        below = below.base
    if isinstance(below, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # Windows takes pages back by itself
        below.madvise(mmap.MADV_DONTNEED)


def positions(window: int, tokens: int, B: int, T: int, seed: int | None) -> NDArray[np.int64]:
    """Where in the text a window (counted over all epochs) takes its ids and next ids: int64 (B,T+1).

    With no seed every epoch begins at the first id.
    """
    count = windows(tokens, B, T)
    epoch, within = divmod(window, count)
    slack = tokens - 1 - B * T * count
    offset = 0 if seed is None else np.random.default_rng([seed, epoch]).integers(slack + 1)
    starts = offset + T * (count * np.arange(B) + within)
    return starts[:, None] + np.arange(T + 1)
