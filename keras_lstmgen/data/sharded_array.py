"""Provide a read-only array whose ids are stored in several memory-mapped files."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.utils.errors import UserError

# Maximum number of files that are mapped at the same time. Operating systems often limit a process to about 1,000 open
# files.
MAPS = 256


class Shards:
    """A one-dimensional array of ids in several memory-mapped files. The array supports slices and index arrays.

    Args:
        paths: the files in order.
        tokens: number of ids in each file, at least 1.
        dtype: NumPy dtype of the ids, such as ``"<u2"``.
    """

    def __init__(self, paths: Sequence[Path], tokens: Sequence[int], dtype: str) -> None:
        """Create the array without opening the files."""
        self._ends = np.cumsum(tokens, dtype=np.int64)
        self._starts = self._ends - np.array(tokens, np.int64)
        self._map = functools.lru_cache(MAPS)(lambda number: _mapped(paths[number], dtype, tokens[number]))

    def release_pages(self) -> None:
        """Unmap all files."""
        self._map.cache_clear()

    def __len__(self) -> int:
        """Return the total number of ids."""
        return int(self._ends[-1])

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids at some positions.

        Args:
            index: a slice without a step, or an int64 array of positions.

        Returns:
            For a slice, a one-dimensional array in the dtype of the files. For an array of positions, an int32 array of
            the same shape.
        """
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._between(start, max(start, stop))
        shards = np.searchsorted(self._ends, index, side="right")
        ids = np.zeros(index.shape, np.int32)
        for shard in np.unique(shards):
            inside = shards == shard
            ids[inside] = self._map(int(shard))[index[inside] - self._starts[shard]]
        return ids

    def _between(self, start: int, stop: int) -> NDArray[Any]:
        """Return the ids from ``start`` up to, but not including, ``stop``. The ids may be stored in several files."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._starts, stop, side="left"))
        parts = [
            self._map(shard)[max(start - int(self._starts[shard]), 0) : stop - int(self._starts[shard])]
            for shard in range(first, last)
        ]
        return np.concatenate(parts) if parts else self._map(0)[:0]


def _mapped(path: Path, dtype: str, tokens: int) -> NDArray[Any]:
    """Map a file of ``tokens`` ids into memory, or raise UserError if this fails."""
    try:
        return np.memmap(path, dtype, "r", shape=(tokens,))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the corpus again") from error
