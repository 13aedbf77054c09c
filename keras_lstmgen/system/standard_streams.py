"""Standard input, output and error: always open, in UTF-8, and usable after their reader has left."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keras_lstmgen.utils.errors import ReaderLeft, UserError

NAMES = ("stdin", "stdout", "stderr")  # by file descriptor


@dataclass
class Output:
    """The state of a standard stream that is written to."""

    goes_on: bool = False  # whether the work continues, its output discarded, after the reader has left
    failure: str = ""  # why the system refused to write

    def check(self) -> None:
        """Raise UserError if the system has refused to write."""
        if self.failure:
            raise UserError(f"standard output: could not be written ({self.failure}); send it elsewhere")


class _Descriptor(io.FileIO):
    """A file descriptor that becomes the null device at the first write that fails."""

    def __init__(self, number: int, output: Output) -> None:
        super().__init__(number, "w", closefd=False)
        self.output = output

    def write(self, data: Any, /) -> int:
        """Write, or discard the data; raise if the work does not go on without a reader."""
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
    """Make the standard streams usable in the block, and yield what is known of standard output.

    A stream that is closed becomes the null device. A write to standard error never fails: there is nowhere to say so.
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
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file that is opened gets its number, and whatever native code prints is written into that file.
    """
    for number in range(len(NAMES)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (it is open as long as the process)


def discard(number: int) -> None:
    """Let everything that is written to a file descriptor go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _writing(number: int, output: Output, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """A stream like the one before, or a new one, over a descriptor that may fail."""
    buffer = io.BufferedWriter(_Descriptor(number, output))
    if before is None:
        return io.TextIOWrapper(buffer, encoding="utf-8")
    by_line = before.line_buffering or before.write_through
    return io.TextIOWrapper(buffer, encoding=before.encoding, errors=before.errors, line_buffering=by_line)


def _use_utf8() -> None:
    """Read and write UTF-8, whatever encoding the terminal reports: another encoding lacks characters."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8")
