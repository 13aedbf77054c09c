"""Read the CPU and memory limits of a container from the control groups of Linux, versions 1 and 2.

The limits of all parent groups apply too. Inside a container, the path of the group may be the path outside it. The
files of the group are then at the root of the tree, which is read as well.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # their places on Linux


@functools.cache
def cores(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Return the CPU quota of this process in cores; infinity without a quota."""
    return _lowest(groups, own, "cpu", _quota)


@functools.cache
def memory(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Return the memory limit of this process in bytes; infinity without a limit."""
    return _lowest(groups, own, "memory", _bytes)


def _lowest(groups: Path, own: Path, controller: str, read: Callable[[Path], float]) -> float:
    """Return the lowest limit of the group and its parents."""
    return min((_or_infinity(read, folder) for folder in _folders(groups, own, controller)), default=math.inf)


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the group of this process and of its parents for a controller."""
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


def _or_infinity(read: Callable[[Path], float], folder: Path) -> float:
    """Return the limit of a group; infinity if the files are missing or invalid."""
    try:
        return read(folder)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota(folder: Path) -> float:
    """Return the quota in cores: ``cpu.max`` of version 2 (microseconds and period), or the two files of version 1."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = (_text(folder, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def _bytes(folder: Path) -> float:
    """Return the limit in bytes; in version 1, a number larger than any memory means no limit."""
    name = "memory.max" if (folder / "memory.max").exists() else "memory.limit_in_bytes"
    limit = _text(folder, name)
    return math.inf if limit == "max" else int(limit)


def _text(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()
