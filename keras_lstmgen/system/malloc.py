"""Memory that is kept between the steps of a training, in large pages.

An update takes and gives back tensors of tens of megabytes. What the C library gets for them from the system, it gives
back to it as soon as they are free, and has it handed out anew, page after page of 4 kB, each cleared at first touch:
with large batches and vocabularies that takes a third of the time. So the library is told to keep what it has, and the
system to hand it out in pages of 2 MB. No more is taken than is used: what is set aside are addresses alone.
"""

import ctypes
import os
import sys

from keras_lstmgen.system import containers

# Of <malloc.h> and <sys/mman.h>, as glibc and Linux number them.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
NEVER, HUGE_PAGES = -1, 14
SHARE = 2  # of the memory that there is, one part in so many
LEAST = 1 << 30  # bytes; where there is less, nothing is changed


def available() -> int:
    """Count the bytes of memory that this process may use: the machine's, or fewer where its container has a limit."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), containers.memory()))


def configure() -> None:
    """Say so to glibc, before TensorFlow is imported and starts threads; elsewhere nothing happens."""
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    room = available() // SHARE
    if room >= LEAST and library.mallopt(MMAP_MAX, 0) and library.mallopt(ARENA_MAX, 1):
        library.mallopt(TRIM_THRESHOLD, NEVER)
        _set_aside(library, room)


def _set_aside(library: ctypes.CDLL, room: int) -> None:
    """Reach so many bytes ahead on the heap, ask for large pages there, and give them back to the library."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    ahead = library.malloc(room)
    if ahead:
        page = 1 << 21
        start = -(-ahead // page) * page
        library.madvise(start, room - (start - ahead), HUGE_PAGES)
        library.free(ahead)
