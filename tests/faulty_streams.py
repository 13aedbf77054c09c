"""Standard streams that cannot be used, in this process and in others."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("stdin", "stdout", "stderr")
FAULTS = ("closed", "full", "left")  # left: a pipe whose reader has gone
# (streams, fault): standard input cannot be full, and one without a writer is at its end
TABLE: list[tuple[tuple[str, ...], str]] = [(("stdin",), "closed"), (("stdin",), "left")]
TABLE += [((name,), fault) for name in NAMES[1:] for fault in FAULTS]
TABLE += [(NAMES, "closed"), (NAMES[1:], "left")]


def spoil(streams: Sequence[str], fault: str) -> None:
    """Give standard streams of this process a fault."""
    for name in streams:
        number = NAMES.index(name)
        if fault == "closed":
            os.close(number)
        else:
            spoilt = os.open("/dev/full", os.O_WRONLY) if fault == "full" else _left(to_read=number == 0)
            os.dup2(spoilt, number)
            os.close(spoilt)


def _left(to_read: bool) -> int:
    """One end of a pipe whose other end is closed."""
    ends = os.pipe()
    os.close(ends[to_read])
    return ends[not to_read]


@contextmanager
def spoiled(streams: Sequence[str], fault: str, said: Path) -> Iterator[None]:
    """Let Python have standard streams of which some have a fault; the others are ``/dev/null`` and ``said``."""
    kept = [os.dup(number) for number in range(3)]
    before = [(name, getattr(sys, name)) for stream in NAMES for name in (stream, f"__{stream}__")]
    try:
        for number, path in enumerate((os.devnull, os.devnull, str(said))):
            os.dup2(file := os.open(path, os.O_RDWR | os.O_CREAT), number)
            os.close(file)
        spoil(streams, fault)
        for number, stream in enumerate(NAMES):
            closed = fault == "closed" and stream in streams
            opened = None if closed else open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, stream, opened)
            setattr(sys, f"__{stream}__", opened)
        yield
    finally:
        for name, stream in before:
            setattr(sys, name, stream)
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)


def ended(
    words: Sequence[str | Path], streams: Sequence[str], fault: str, said: Path, stdin: Any = subprocess.DEVNULL
) -> int:
    """The exit status of a command some of whose standard streams have a fault; standard error goes to ``said``."""
    with said.open("wb") as stderr:
        return subprocess.run(
            [str(word) for word in words], stdin=stdin, stdout=subprocess.DEVNULL, stderr=stderr,
            preexec_fn=lambda: spoil(streams, fault), check=False,
        ).returncode  # fmt: skip
