"""Capture the messages that native libraries write to standard error."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from keras_lstmgen.system import standard_streams

_lock = threading.RLock()  # all threads of a process share file descriptor 2


@contextmanager
def captured_stderr(show_on_failure: bool = True) -> Iterator[None]:
    """Capture the output to file descriptor 2 inside the context, and discard it if the block succeeds.

    TensorFlow prints a message about a missing GPU before its log level applies, and converters print a message for
    each pass. Python's logging and warnings modules cannot filter these messages. The function also hides the messages
    of TensorFlow's Python logger below the level ERROR, because a notebook does not write them to file descriptor 2.
    Only one thread at a time runs the block, because all threads of the process write to the same file descriptor.

    Args:
        show_on_failure: whether to write the captured output to standard error if the block raises an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    standard_streams.open_closed()
    if sys.stderr:
        sys.stderr.flush()
    with _lock, _error_level(), _memory_file() as file:
        original = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            with suppress(OSError):  # the write fails if the reader of standard error has closed it
                os.write(original, file.read() if show_on_failure else b"")
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


@contextmanager
def _error_level() -> Iterator[None]:
    """Set the level of TensorFlow's Python logger to ERROR inside the context."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _memory_file() -> IO[bytes]:
    """Open a file in memory, or a temporary file if the system does not support files in memory."""
    try:
        return open(os.memfd_create("standard error"), "w+b")
    except (AttributeError, OSError):  # macOS has no memfd_create
        return tempfile.TemporaryFile()
