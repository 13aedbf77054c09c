"""Run a side of a benchmark in its own process, so that libraries do not disturb each other's threads.

Here a ``Worker`` starts the process, asks it numbers over a pipe and reads its answers. Between two questions the
process is stopped by a signal: whatever threads it has, sleeping, spinning or prefetching, none of them runs.
There, ``python -m benchmarks.workers JOB`` makes the side and answers. It imports nothing but what the side does.
"""

import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class WorkerError(RuntimeError):
    """A worker came to its end before its answer; the message is the last error that it printed."""


class Worker:
    """The process of one side, made and warm."""

    def __init__(self, target: str, environment: Mapping[str, str] | None = None, **arguments: Any) -> None:
        """Start ``target``, "module:function", whose result for ``arguments`` answers the questions."""
        self._target = target
        job = json.dumps({"target": target, "arguments": arguments})
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers", job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        )
        self._answer()

    def ask(self, question: float) -> Any:
        """Let the process run until it has answered."""
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(b"%s\n" % json.dumps(question).encode())
        self.process.stdin.flush()
        return self._answer()

    def turn(self, seconds: float, per_step: float) -> Callable[[], float]:
        """What asks a side for as many steps as take so long; it answers steps a second, times ``per_step``."""
        steps = before = 2
        while steps == 2 or steps > 2 * before:  # few steps say little of many
            before, steps = steps, max(3, round(seconds * self.ask(steps) / per_step))
        return lambda: float(self.ask(steps))

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            error = self._last_error()
            self.close()
            raise WorkerError(f"{self._target}: {error}")
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def _last_error(self) -> str:
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        errors = re.findall(r"^[\w.]*(?:Error|Exception|Unsupported|Exit)\w*: .*$", text, re.MULTILINE)
        return str((errors or text.splitlines() or [f"exit code {self.process.returncode}"])[-1])

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self._errors.close()


def end_with_parent() -> None:
    """Be killed when the process that asks is: one that is stopped by a signal would stand there for ever (Linux)."""
    PR_SET_PDEATHSIG = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answer the questions of standard input; what libraries print goes to standard error."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    module, name = job["target"].split(":")
    side = getattr(importlib.import_module(module), name)(**job["arguments"])
    print("null", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(side(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
