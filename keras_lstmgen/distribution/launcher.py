"""``train --workers N``: so many workers as processes of this machine, for a try-out or a machine of several GPUs."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from keras_lstmgen.system import cpu, signals
from keras_lstmgen.utils.errors import Terminated, UserError

MAX_WORKERS = 256  # workers of one machine
GRACE = 60.0  # seconds in which the others notice that one has ended, and end too
# The first argument is the folder that holds this package. It stands last in the path, and only until the package is
# imported, so that a worker imports nothing else from there: it may be the working directory.
WORKER = (
    "import sys; sys.path.append(sys.argv.pop(1)); from keras_lstmgen.cli.command_line import main; "
    "sys.path.pop(); sys.exit(main())"
)


def launch(words: Sequence[str], count: int) -> int:
    """Start ``keras-lstmgen`` with these words ``count`` times, and see them through; give the status of the first.

    Each gets its share of the cores, and a GPU where there are as many. Of one that fails its own line is told, not
    what the others say of its end.
    """
    if count > MAX_WORKERS:
        raise UserError(f"--workers: {count} is out of range; give {MAX_WORKERS} or less")
    if os.environ.get("TF_CONFIG"):
        raise UserError(f"--workers {count}: TF_CONFIG is set, and names the workers already; leave one of the two out")
    report_idle_gpus(count)
    with ExitStack() as stack:
        says = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        workers: list[subprocess.Popen[bytes]] = []
        with _forwarding(workers) as asked:
            for number, environment in enumerate(_environments(count)):
                workers.append(_started([*words, "--workers", "1"], environment, says[number]))
                _give_cores(workers[number], number, count)
                if asked:
                    raise Terminated(f"stopped by {signal.Signals(asked[0]).name}; nothing has begun")
            failed = _first_that_fails(workers)
        if failed is None:
            return 0
        says[failed].seek(0)
        sys.stderr.write(says[failed].read().decode(errors="replace"))
        return _status(failed, workers[failed].returncode)


def _started(words: Sequence[str], environment: dict[str, str], said: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start one worker, which imports nothing from the working directory.

    Only the chief shows its output. The keyboard's signals reach a worker through ``_forwarding`` alone.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    is_chief = json.loads(environment["TF_CONFIG"])["task"]["index"] == 0
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER, package_parent, *words],
        env=environment, stdin=subprocess.DEVNULL, stdout=None if is_chief else subprocess.DEVNULL, stderr=said,
        start_new_session=True,
    )  # fmt: skip


def _environments(count: int) -> Iterator[dict[str, str]]:
    """What each worker is told: where all of them are, which one it is, and its GPU."""
    names, gpus = [f"127.0.0.1:{port}" for port in _free_ports(count)], _gpus()
    if 0 < len(gpus) < count:
        raise UserError(
            f"--workers {count}: each wants a GPU of its own, and there are {len(gpus)}; give as many, or hide them "
            "with CUDA_VISIBLE_DEVICES=''"
        )
    for number in range(count):
        about = {"cluster": {"worker": names}, "task": {"type": "worker", "index": number}}
        own = {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {}
        yield os.environ | {"TF_CONFIG": json.dumps(about)} | own


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def report_idle_gpus(count: int) -> None:
    """Say what would take the GPUs that so many workers leave idle: each takes one."""
    if (gpus := len(_gpus())) > count:
        print(f"{count} of {gpus} GPUs: --workers {gpus} takes all, if training.batch_size is a multiple of {gpus}")


def _gpus() -> list[str]:
    """The names of the GPUs of this machine, as ``CUDA_VISIBLE_DEVICES`` has them."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _give_cores(worker: "subprocess.Popen[bytes]", number: int, count: int) -> None:
    """A share of the cores that this process may use, if there are enough."""
    if cpu.available() >= count and hasattr(os, "sched_setaffinity"):
        with suppress(ProcessLookupError):  # it has ended already
            os.sched_setaffinity(worker.pid, sorted(os.sched_getaffinity(0))[number::count])


@contextmanager
def _forwarding(workers: Sequence["subprocess.Popen[bytes]"]) -> Iterator[list[int]]:
    """Hand Ctrl-C and SIGTERM on to all workers, those begun in the block; end those that are left when it is left.

    Yields the signals that came.
    """
    asked: list[int] = []

    def forward(number: int, frame: Any) -> None:  # noqa: ARG001
        asked.append(number)
        for worker in workers:
            worker.send_signal(number)

    with signals.installed({signal.SIGINT: forward, signal.SIGTERM: forward}):
        try:
            yield asked
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _first_that_fails(workers: Sequence["subprocess.Popen[bytes]"]) -> int | None:
    """Wait until all have ended, those that are left by one that fails no longer than ``GRACE``."""
    failed, until = None, float("inf")
    while None in [worker.poll() for worker in workers] and time.monotonic() < until:
        time.sleep(0.1)
        ended = [number for number, worker in enumerate(workers) if worker.returncode]
        if ended and failed is None:
            failed, until = ended[0], time.monotonic() + GRACE
    return failed if failed is not None else next((n for n, worker in enumerate(workers) if worker.returncode), None)


def _status(number: int, code: int) -> int:
    """The exit status of a worker that failed; UserError where a signal ended it."""
    if code < 0:
        raise UserError(
            f"worker {number} was ended by {signal.Signals(-code).name}; go on with: "
            "keras-lstmgen train --resume RUN --workers N, if there is a run"
        )
    return code
