"""How many threads work, said to everything that has threads, in one place."""

import functools
import math
import os
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # as Linux has them


def available() -> int:
    """Cores that this process may use: fewer than the machine has where it was pinned to some, or has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota())))


@functools.cache
def quota(groups: Path = GROUPS, own: Path = OWN) -> float:
    """How many cores' time a container may take: the least of its control group and those above; infinity: all.

    Of control groups of version 2; where a system still has those of version 1, all of its cores count.
    """
    try:
        (path,) = (line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError):
        return math.inf
    group = groups / path.strip().lstrip("/")
    return min(map(_share, [group, *group.parents]))


def _share(group: Path) -> float:
    """What ``cpu.max`` of a control group says: microseconds in so many, or "max"."""
    try:
        most, period = (group / "cpu.max").read_text().split()
        return math.inf if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def configure() -> None:
    """Tell TensorFlow, before it is imported: one thread a core within an operator, and two operators at once.

    The LSTM's own threads work while TensorFlow's wait, so both may have all cores. A training step hardly ever has
    more than two operators to run at once, the LSTM and the input pipeline; each further thread is one more to wake
    up. Who has set TensorFlow's own variables keeps what was set.
    """
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(available()))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
