"""Read the limits that a container sets: Linux's control groups, versions 2 and 1.

A process is in a group, and the limits of all groups above hold for it too. In a container the path of its group may be
the path outside; the files of its own group then stand at the root, which is read as well.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # where Linux has them


@functools.cache
def cores(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Read how many cores' time this process may take; infinity without a quota."""
    return _least(groups, own, "cpu", _quota)


@functools.cache
def memory(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Read how many bytes of memory this process may take; infinity without a limit."""
    return _least(groups, own, "memory", _bytes)


def _least(groups: Path, own: Path, controller: str, read: Callable[[Path], float]) -> float:
    """Find the lowest limit of all groups."""
    return min((_or_none(read, folder) for folder in _folders(groups, own, controller)), default=math.inf)


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """List the folders of the own group and of those above, for a controller."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" or controller in names.split(","):
            root = groups / names  # version 2 has no names, and one tree for all controllers
            group = root / path.strip().lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _or_none(read: Callable[[Path], float], folder: Path) -> float:
    """Read a limit; infinity where there is none, or no number."""
    try:
        return read(folder)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota(folder: Path) -> float:
    """Read ``cpu.max``, microseconds in so many, or "max"; in version 1 two files, with -1 for no quota."""
    if (folder / "cpu.max").exists():
        most, period = (folder / "cpu.max").read_text().split()
    else:
        most, period = (_text(folder, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return math.inf if most in ("max", "-1") else int(most) / int(period)


def _bytes(folder: Path) -> float:
    """Read ``memory.max``, bytes or "max"; in version 1 a number beyond any memory is no limit."""
    name = "memory.max" if (folder / "memory.max").exists() else "memory.limit_in_bytes"
    most = _text(folder, name)
    return math.inf if most == "max" else int(most)


def _text(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()
