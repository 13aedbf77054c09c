"""Reuse the memory of the large arrays that the native code fills.

Each training step needs the same arrays of tens of megabytes. If NumPy freed and allocated them in each step, the
operating system would fill new pages with zeros each time.
"""

import sys
import threading

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes; TensorFlow does not copy an array with this alignment
MINIMUM = 1 << 20  # bytes; NumPy and glibc reuse the memory of smaller arrays
_UNUSED = 2  # references to a block that only the pool holds: the list, and the argument of getrefcount

_blocks: list[NDArray[np.uint8]] = []
_lock = threading.Lock()


def allocate(size: int) -> NDArray[np.uint8]:
    """Return an array of ``size`` bytes whose address is a multiple of ALIGNMENT.

    The memory returns to the pool when nothing refers to the array or to a view of it. Then the pool gives it out for
    an array of the same size, and frees it when an array of another size needs new memory.

    >>> allocate(5).shape, allocate(1 << 21).ctypes.data % ALIGNMENT
    ((5,), 0)

    Args:
        size: number of bytes.

    Returns:
        uint8 [size], not initialized.
    """
    if size < MINIMUM:
        return _aligned(np.empty(size + ALIGNMENT, np.uint8), size)
    with _lock:
        return _aligned(_unused_block(size + ALIGNMENT), size)


def _unused_block(size: int) -> NDArray[np.uint8]:
    """Return an unused block of exactly ``size`` bytes. Without one, allocate it and free the unused blocks."""
    unused = [index for index in range(len(_blocks)) if sys.getrefcount(_blocks[index]) <= _UNUSED]
    for index in unused:
        if _blocks[index].size == size:
            return _blocks[index]
    for index in reversed(unused):
        del _blocks[index]
    _blocks.append(np.empty(size, np.uint8))
    return _blocks[-1]


def _aligned(block: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return ``size`` bytes of a block that has ALIGNMENT bytes more."""
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size]
