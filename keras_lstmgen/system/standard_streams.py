"""Make standard input, output and error safe to use.

All three streams are open and use UTF-8. They stay usable after the reader of a pipe has closed the pipe.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keras_lstmgen.utils.errors import ReaderLeft, UserError

NAMES = ("stdin", "stdout", "stderr")  # the index of a name is its file descriptor


@dataclass
class Output:
    """The state of standard output or standard error.

    Attributes:
        goes_on: whether the command continues, without output, after the reader has closed the stream.
        failure: message of the operating system if a write failed, otherwise "".
    """

    goes_on: bool = False
    failure: str = ""

    def check(self) -> None:
        """Raise UserError if a write failed."""
        if self.failure:
            raise UserError(f"standard output: could not be written ({self.failure}); send it elsewhere")


class _Descriptor(io.FileIO):
    """A file descriptor that is redirected to the null device after the first failed write."""

    def __init__(self, number: int, output: Output) -> None:
        super().__init__(number, "w", closefd=False)
        self.output = output

    def write(self, data: Any, /) -> int:
        """Write data to the file descriptor.

        Args:
            data: bytes to write.

        Returns:
            The number of bytes that were written or discarded.

        Raises:
            ReaderLeft: the reader has closed the pipe, and the command does not continue without a reader.
            UserError: the write failed for another reason, and the command does not continue without its output.
        """
        try:
            return super().write(data)
        except OSError as error:
            discard(self.fileno())
            if not isinstance(error, BrokenPipeError):
                self.output.failure = error.strerror or str(error)
            if not self.output.goes_on:
                self.output.check()
                raise ReaderLeft from error
            return len(data)


@contextmanager
def streams() -> Iterator[Output]:
    """Replace the standard streams inside the context, and yield the state of standard output.

    A closed stream becomes the null device. A write to standard error never raises an exception, because
    there would be no stream left for the error message.
    """
    open_closed()
    before, output = [getattr(sys, name) for name in NAMES], Output()
    _use_utf8()
    if sys.stdout is sys.__stdout__:
        sys.stdout = _writing(1, output, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _writing(2, Output(goes_on=True), sys.stderr)
    try:
        yield output
    finally:
        for name, stream in zip(NAMES, before, strict=True):
            setattr(sys, name, stream)


def open_closed() -> None:
    """Open the null device for each closed standard stream.

    Otherwise the next file that Python opens would get the file descriptor of the stream, and native code would print
    into this file.
    """
    for number in range(len(NAMES)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest unused descriptor, which is ``number``
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (open until the process ends)


def discard(number: int) -> None:
    """Redirect a file descriptor to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _writing(number: int, output: Output, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """Return a text stream for a file descriptor.

    Args:
        number: the file descriptor.
        output: state of the stream. A failed write is recorded in this object.
        before: the stream to replace; None if it was closed. The new stream has the same encoding and buffering.
    """
    buffer = io.BufferedWriter(_Descriptor(number, output))
    if before is None:
        return io.TextIOWrapper(buffer, encoding="utf-8")
    by_line = before.line_buffering or before.write_through
    return io.TextIOWrapper(buffer, encoding=before.encoding, errors=before.errors, line_buffering=by_line)


def _use_utf8() -> None:
    """Set the encoding of standard input and output to UTF-8, because other encodings cannot represent all text."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8")
