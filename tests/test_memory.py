"""Memory that was used once is kept for the next step."""

import resource
import subprocess
import sys

import pytest

from keras_lstmgen.system import malloc

STEPS = """
import resource, sys
from keras_lstmgen.system import malloc
if sys.argv[1] == "kept":
    malloc.configure()
for step in range(20):
    b"x" * (48_000_000 + step)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    """Pages that the system had to hand out to a process which takes and gives back 48 MB again and again."""
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc on Linux")
def test_pages_are_handed_out_once_and_not_in_every_step() -> None:
    step = 48_000_000 // resource.getpagesize()
    assert faults("given back") > 10 * step
    assert faults("kept") < 3 * step


def test_nothing_is_done_where_somebody_has_tuned_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=7")
    monkeypatch.setattr("ctypes.CDLL", None)  # which would fail
    malloc.configure()
