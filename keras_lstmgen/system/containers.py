"""Read the CPU and memory limits of a container from Linux control groups (cgroups), versions 1 and 2.

The limits of all parent groups apply too. Inside a container, ``/proc/self/cgroup`` may contain a path that exists only
outside the container. In this case, the files of the group are in the root folder. Therefore this module
always reads the root folder too.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # the folder of all control groups on Linux
OWN = Path("/proc/self/cgroup")  # the file that lists the groups of this process


@functools.cache
def cores(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Return the CPU quota of this process in cores, or infinity if there is no quota."""
    return _lowest(groups, own, "cpu", _quota)


@functools.cache
def memory(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Return the memory limit of this process in bytes, or infinity if there is no limit."""
    return _lowest(groups, own, "memory", _bytes)


def _lowest(groups: Path, own: Path, controller: str, read: Callable[[Path], float]) -> float:
    """Return the lowest limit among the group of this process and all parent groups; infinity if there is no limit."""
    return min((_or_infinity(read, folder) for folder in _folders(groups, own, controller)), default=math.inf)


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of the group of this process, and the folders of all parent groups.

    Args:
        groups: the folder of all control groups.
        own: the file that lists the groups of this process, one ``number:controllers:path`` per line.
        controller: ``"cpu"`` or ``"memory"``.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" or controller in names.split(","):
            root = groups / names  # in version 2, ``names`` is "", because all controllers share one folder tree
            group = root / path.strip().lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _or_infinity(read: Callable[[Path], float], folder: Path) -> float:
    """Return the result of ``read`` for the folder of a group, or infinity if ``read`` fails."""
    try:
        return read(folder)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota(folder: Path) -> float:
    """Return the CPU quota of a group in cores.

    The quota is the allowed CPU time divided by the length of a period. Version 2 stores both numbers in ``cpu.max``,
    and version 1 stores both numbers in separate files.
    """
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = (_text(folder, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def _bytes(folder: Path) -> float:
    """Return the memory limit of a group in bytes. In version 1, a very large number means that there is no limit."""
    name = "memory.max" if (folder / "memory.max").exists() else "memory.limit_in_bytes"
    limit = _text(folder, name)
    return math.inf if limit == "max" else int(limit)


def _text(folder: Path, name: str) -> str:
    """Return the content of a file without surrounding white space."""
    return (folder / name).read_text().strip()
