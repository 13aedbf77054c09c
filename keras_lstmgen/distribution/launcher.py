"""Run ``train --workers N``: start N worker processes on this machine, for example one for each GPU."""

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

from keras_lstmgen.reporting import reporter
from keras_lstmgen.system import cpu, signals
from keras_lstmgen.utils.errors import Terminated, UserError

MAX_WORKERS = 256  # maximum number of workers on one machine
GRACE = 60.0  # After a worker has failed, the other workers are killed after this number of seconds.
# The program of a worker. Its first argument is the folder that contains this package. The program removes this folder
# from sys.path after the import of the package. Otherwise, if the folder is the working directory, the worker could
# import other modules from the working directory.
WORKER = (
    "import sys; sys.path.append(sys.argv.pop(1)); from keras_lstmgen.cli.command_line import main; "
    "sys.path.pop(); sys.exit(main())"
)


def launch(words: Sequence[str], count: int) -> int:
    """Run ``keras-lstmgen`` in several worker processes, and wait until all workers have ended.

    Each worker gets an equal share of the cores. If there are GPUs, each worker gets one GPU. If a worker fails, the
    other workers fail too, because they cannot continue without it. Only the error message of the first failed worker
    is written to standard error.

    Args:
        words: command line arguments of each worker, such as ``["train", "recipe.toml"]``.
        count: number of workers.

    Returns:
        0 if all workers succeed, otherwise the exit status of the first worker that failed.

    Raises:
        UserError: the workers cannot be started, or a signal killed a worker.
        Terminated: Ctrl-C or SIGTERM arrived before all workers were started.
    """
    if count > MAX_WORKERS:
        raise UserError(f"--workers: {count} is out of range; give {MAX_WORKERS} or less")
    if os.environ.get("TF_CONFIG"):
        raise UserError(f"--workers {count}: TF_CONFIG is set and already lists the workers; leave out one of the two")
    report_idle_gpus(count)
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        workers: list[subprocess.Popen[bytes]] = []
        with _forwarded_signals(workers) as received:
            for number, environment in enumerate(_environments(count)):
                workers.append(_start([*words, "--workers", "1"], environment, outputs[number]))
                _assign_cores(workers[number], number, count)
                if received:
                    raise Terminated(f"stopped by {signal.Signals(received[0]).name} before the training started")
            failed = _first_failure(workers)
        if failed is None:
            return 0
        outputs[failed].seek(0)
        sys.stderr.write(outputs[failed].read().decode(errors="replace"))
        return _status(failed, workers[failed].returncode)


def _start(words: Sequence[str], environment: dict[str, str], errors: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start one worker.

    The worker imports nothing from the working directory. Only the chief shows its standard output. Each worker has its
    own session and does not receive Ctrl-C from the terminal. ``_forwarded_signals`` sends this signal to all workers.

    Args:
        words: command line arguments of the worker.
        environment: environment variables of the worker.
        errors: file for standard error.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    is_chief = json.loads(environment["TF_CONFIG"])["task"]["index"] == 0
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER, package_parent, *words],
        env=environment, stdin=subprocess.DEVNULL, stdout=None if is_chief else subprocess.DEVNULL, stderr=errors,
        start_new_session=True,
    )  # fmt: skip


def _environments(count: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables of each worker.

    ``TF_CONFIG`` contains the addresses of all workers and the index of this worker. ``CUDA_VISIBLE_DEVICES`` selects
    the GPU of this worker.
    """
    names, gpus = [f"127.0.0.1:{port}" for port in _free_ports(count)], _gpus()
    if 0 < len(gpus) < count:
        raise UserError(
            f"--workers {count}: each worker needs its own GPU, but this machine has {len(gpus)}; start {len(gpus)} "
            "workers, or hide the GPUs with CUDA_VISIBLE_DEVICES=''"
        )
    for number in range(count):
        config = {"cluster": {"worker": names}, "task": {"type": "worker", "index": number}}
        device = {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {}
        yield os.environ | {"TF_CONFIG": json.dumps(config)} | device


def _free_ports(count: int) -> list[int]:
    """Return ``count`` different unused TCP ports of this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for open_socket in sockets:
            open_socket.bind(("127.0.0.1", 0))
        return [int(open_socket.getsockname()[1]) for open_socket in sockets]


def report_idle_gpus(count: int) -> None:
    """If there are more GPUs than workers, report which option uses all GPUs.

    Args:
        count: number of workers.
    """
    if (gpus := len(_gpus())) > count:
        reporter.message(
            f"Using {count} of {gpus} GPUs: --workers {gpus} uses all GPUs; training.batch_size must be a multiple of "
            f"{gpus}"
        )


def _gpus() -> list[str]:
    """Return the names of the visible GPUs in the form that ``CUDA_VISIBLE_DEVICES`` accepts."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _assign_cores(worker: "subprocess.Popen[bytes]", number: int, count: int) -> None:
    """If there are at least as many cores as workers, assign an equal share of the cores to a worker.

    Args:
        worker: the process.
        number: index of the worker.
        count: number of workers.
    """
    if cpu.available() >= count and hasattr(os, "sched_setaffinity"):
        with suppress(ProcessLookupError):  # the worker has already ended
            os.sched_setaffinity(worker.pid, sorted(os.sched_getaffinity(0))[number::count])


@contextmanager
def _forwarded_signals(workers: Sequence["subprocess.Popen[bytes]"]) -> Iterator[list[int]]:
    """Forward Ctrl-C and SIGTERM to all workers inside the context, and kill running workers when it ends.

    Args:
        workers: a list to which the caller appends each worker after its start.

    Yields:
        A list that contains the number of each signal received so far.
    """
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:  # noqa: ARG001
        received.append(number)
        for worker in workers:
            worker.send_signal(number)

    with signals.installed({signal.SIGINT: forward, signal.SIGTERM: forward}):
        try:
            yield received
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _first_failure(workers: Sequence["subprocess.Popen[bytes]"]) -> int | None:
    """Wait until all workers have ended, or until ``GRACE`` seconds after the first failure.

    Returns:
        The index of the first worker that failed; None if all succeeded.
    """
    failed, deadline = None, float("inf")
    while None in [worker.poll() for worker in workers] and time.monotonic() < deadline:
        time.sleep(0.1)
        ended = [number for number, worker in enumerate(workers) if worker.returncode]
        if ended and failed is None:
            failed, deadline = ended[0], time.monotonic() + GRACE
    return failed if failed is not None else next((n for n, worker in enumerate(workers) if worker.returncode), None)


def _status(number: int, code: int) -> int:
    """Return the exit status of a failed worker; raise UserError if a signal killed it.

    Args:
        number: index of the worker.
        code: return code of the process; negative if a signal killed it.
    """
    if code < 0:
        raise UserError(
            f"worker {number} was ended by {signal.Signals(-code).name}; if the training has saved a run, continue it "
            "with: keras-lstmgen train --resume RUN --workers N"
        )
    return code
