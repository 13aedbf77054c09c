"""Work without the notes that native libraries write to standard error while they load and convert."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from keras_lstmgen.system import standard_streams


@contextmanager
def captured_stderr(tell: bool = True) -> Iterator[None]:
    """Hold back what is written to file descriptor 2 inside the block; show it only if the block fails.

    With ``tell`` = False not even then, where the exception says all there is to say.

    TensorFlow reports a missing GPU before its own log level counts, converters report each pass; no Python filter
    reaches them.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    standard_streams.open_closed()
    if sys.stderr:
        sys.stderr.flush()
    kept = os.dup(2)
    with _held() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            with suppress(OSError):  # nobody reads standard error
                os.write(kept, held.read() if tell else b"")
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _held() -> IO[bytes]:
    """Open a file that is in memory alone, so that a machine without a folder for temporary files has one."""
    try:
        return open(os.memfd_create("standard error"), "w+b")
    except (AttributeError, OSError):  # not on this system
        return tempfile.TemporaryFile()
