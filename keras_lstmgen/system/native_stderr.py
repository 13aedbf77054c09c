"""Capture the messages that native libraries write to standard error."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from keras_lstmgen.system import standard_streams


@contextmanager
def captured_stderr(show_on_failure: bool = True) -> Iterator[None]:
    """Capture file descriptor 2 in the block; write the messages to standard error only if the block fails.

    TensorFlow reports a missing GPU before its log level applies, and converters report each pass. Python's logging and
    warnings cannot filter these messages.

    Args:
        show_on_failure: whether the messages are written if the block fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    standard_streams.open_closed()
    if sys.stderr:
        sys.stderr.flush()
    original = os.dup(2)
    with _memory_file() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            with suppress(OSError):  # the reader of standard error has closed it
                os.write(original, file.read() if show_on_failure else b"")
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


def _memory_file() -> IO[bytes]:
    """Open a file in memory, or a temporary file on systems without files in memory."""
    try:
        return open(os.memfd_create("standard error"), "w+b")
    except (AttributeError, OSError):  # macOS has no memfd_create
        return tempfile.TemporaryFile()
