"""Configure the C library glibc so that it keeps freed memory between training steps, in huge pages.

Each training step allocates and frees tensors of tens of megabytes. By default, glibc returns freed memory to the
operating system. For the next step, the operating system provides new pages of 4 KiB and fills each page with zeros.
With large batches and vocabularies, this work takes a third of the time. With the settings of this module, glibc keeps
freed memory, and Linux uses pages of 2 MiB. The process reserves more addresses, but does not use more memory.
"""

import ctypes
import os
import sys

from keras_lstmgen.system import containers

# Constants of <malloc.h> and <sys/mman.h> for glibc and Linux.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
NEVER, HUGE_PAGES = -1, 14
SHARE = 2  # ``configure`` reserves addresses for 1/SHARE of the memory
MINIMUM = 1 << 30  # bytes; with a smaller reservation, ``configure`` changes nothing


def available() -> int:
    """Return the memory of this machine in bytes, or the limit of the container if it is lower."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), containers.memory()))


def configure() -> None:
    """Configure glibc. Call this function before TensorFlow is imported, because TensorFlow starts threads.

    The function does nothing on systems without glibc, or if the user has set ``GLIBC_TUNABLES``.
    """
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    size = available() // SHARE
    if size >= MINIMUM and library.mallopt(MMAP_MAX, 0) and library.mallopt(ARENA_MAX, 1):
        library.mallopt(TRIM_THRESHOLD, NEVER)
        _reserve(library, size)


def _reserve(library: ctypes.CDLL, size: int) -> None:
    """Extend the heap by ``size`` bytes, request huge pages for this memory, and free it for later allocations."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    address = library.malloc(size)
    if address:
        page = 1 << 21
        start = -(-address // page) * page
        library.madvise(start, size - (start - address), HUGE_PAGES)
        library.free(address)
