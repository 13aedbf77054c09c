"""Synchronous data-parallel training: several processes train one model, each on its rows of every batch.

All workers call the same ``fit`` with the same initial weights. Collective operators of ``tf.distribute`` average the
gradients in each update, and combine the values that decide how to continue, so that all workers make the same updates
and decisions. The first worker, the chief, reads and writes the run. The variable ``TF_CONFIG`` lists the workers, as
for ``tf.distribute.MultiWorkerMirroredStrategy``.

Without other workers, each function returns its argument.
"""

import json
import math
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.system import signals
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError, first_line

WAIT = 300.0  # seconds until all workers must have connected
GREETING = 10.0  # seconds in which a worker must send its number
VARIABLE = "TF_CONFIG"
KINDS = ("chief", "worker")
CONNECTION_ERRORS = (  # errors of an operator after another worker has ended
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.FailedPreconditionError,
    tf.errors.DeadlineExceededError,
)  # fmt: skip
_strategy: Any = None
_rank = 0


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the other workers that ``TF_CONFIG`` lists, and disconnect when all have finished the block.

    Enter this context before any operator runs. Without ``TF_CONFIG`` it does nothing.

    Raises:
        UserError: the variable is invalid, a worker does not connect in ``WAIT`` seconds, or another worker fails.
    """
    names, rank = _read_config()
    if len(names) == 1:
        yield
        return
    try:
        _await(names, rank)
        _create_strategy(rank)
        yield
        all_reduce_sum(np.zeros(1))  # wait until all workers are done
        with suppress(*CONNECTION_ERRORS):  # wait until all have received the result of the first sum
            all_reduce_sum(np.zeros(1))
    except CONNECTION_ERRORS as error:
        raise UserError(
            f"worker {rank} of {len(names)}: another worker has ended; read its error message, and start all workers "
            "again, with --resume RUN if there is a run"
        ) from error


def _read_config() -> tuple[list[str], int]:
    """Return the addresses of all workers, first that of the chief, and the index of this process."""
    if not os.environ.get(VARIABLE):
        return [""], 0
    try:
        config = json.loads(os.environ[VARIABLE])
        cluster, task = config["cluster"], config["task"]
        names = [str(name) for kind in KINDS for name in cluster.get(kind, [])]
        for name in names:
            _address(name)
        return names, names.index(cluster[task["type"]][_index(task["index"])])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{VARIABLE}: does not name the workers and this one of them ({error}); the format is "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from error


def _await(names: list[str], rank: int) -> None:
    """Wait until all workers are connected; raise UserError if one is missing.

    TensorFlow itself would wait without a limit and ignore Ctrl-C.
    """
    deadline = time.monotonic() + WAIT
    missing = _accept_workers(names, deadline) if rank == 0 else _register(names[0], rank, deadline)
    if missing:
        shown = ", ".join(f"{number} ({names[number]})" for number in missing)
        raise UserError(f"worker {shown} has not connected within {WAIT:.0f} seconds; start all workers again")


def _accept_workers(names: list[str], deadline: float) -> list[int]:
    """Accept the other workers as the chief, and send them the numbers of the missing ones.

    The chief listens at the address that TensorFlow uses afterwards.
    """
    sockets: dict[int, socket.socket] = {}
    with ExitStack() as stack:
        server = stack.enter_context(_listen(names[0]))
        while len(sockets) < len(names) - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(OSError, ValueError):  # timeout, or a connection from another program
                worker = stack.enter_context(server.accept()[0])
                worker.settimeout(GREETING)
                if (number := int(worker.recv(16))) in range(1, len(names)):
                    sockets.setdefault(number, worker)
        missing = [number for number in range(1, len(names)) if number not in sockets]
        for worker in sockets.values():
            with suppress(OSError):
                worker.sendall(json.dumps(missing).encode() + b"\n")
        return missing


def _listen(name: str) -> socket.socket:
    """Open a port: of the loopback interface if all workers are on this machine, else of all interfaces."""
    host, port = _address(name)
    try:
        return socket.create_server((host if host == "localhost" or host.startswith("127.") else "", port))
    except OSError as error:
        raise UserError(f"{VARIABLE}: the chief cannot listen at {name} ({error.strerror or error})") from error


def _register(chief: str, rank: int, deadline: float) -> list[int]:
    """Send the number of this worker to the chief; return the numbers of missing workers, 0 if it does not answer."""
    while (left := deadline - time.monotonic()) > 0:
        with (
            suppress(OSError, ValueError),
            socket.create_connection(_address(chief), timeout=min(left, GREETING)) as connection,
        ):
            connection.sendall(str(rank).encode())
            connection.settimeout(WAIT + GREETING)
            return [int(number) for number in json.loads(connection.makefile().readline())]
        time.sleep(0.2)
    return [0]


def _index(value: Any) -> int:
    """Return the index of ``TF_CONFIG``, a number or a string; raise ValueError if it is not a whole number from 0."""
    if not re.fullmatch("[0-9]{1,9}", f"{value}"):
        raise ValueError(f"its index is {numerals.shortened(repr(value))}")
    return int(value)


def _address(name: str) -> tuple[str, int]:
    """Return host and port of ``host:port``."""
    host, _, port = name.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ValueError(f"the port of {numerals.shortened(name)} is not a number from 1 to 65535")
    return host, int(port)


def _create_strategy(rank: int) -> None:
    """Create the strategy of TensorFlow, which connects the workers."""
    global _strategy, _rank
    try:
        with captured_stderr(), signals.restored(signal.SIGINT, signal.SIGTERM):  # TensorFlow sets its own handlers
            _strategy, _rank = tf.distribute.MultiWorkerMirroredStrategy(), rank
            all_reduce_sum(np.zeros(1))
    except RuntimeError as error:
        raise UserError(f"{VARIABLE}: the workers could not connect ({first_line(error)})") from error


def size() -> int:
    """Return the number of workers."""
    return int(_strategy.num_replicas_in_sync) if _strategy else 1


def is_chief() -> bool:
    """Return whether this process is the chief, which reads and writes the run."""
    return _rank == 0


def batch_rows(B: int) -> slice:
    """Return the rows of a batch that this worker processes: ``slice(4, 8)`` of ``B`` = 12 for the second of three."""
    share = B // size()
    return slice(share * _rank, share * (_rank + 1))


def all_reduce_mean(tensors: Sequence[Any]) -> list[Any]:
    """Return the mean of each tensor over all workers, inside a graph; one operator reduces all tensors.

    Args:
        tensors: float32 tensors, with the same shapes in all workers.
    """
    if not _strategy:
        return list(tensors)
    together = _summed(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)) / np.float32(size())
    parts = tf.split(together, [math.prod(tensor.shape) for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _summed(tensor: Any) -> Any:
    """Return the sum of a tensor over all workers, inside a graph."""

    def reduce(part: Any) -> Any:
        with tf.device(_strategy.extended.worker_devices[0]):  # all_reduce needs a tensor with a device
            placed = tf.identity(part)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, placed)

    return _strategy.run(reduce, args=(tensor,))


@tf.function(reduce_retracing=True)
def _summed_now(tensor: Any) -> Any:
    return _summed(tensor)


def all_reduce_sum(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum of an array over all workers, as float64; the shape is the same in all workers."""
    numbers = np.asarray(array, np.float64)
    return np.asarray(_summed_now(tf.constant(numbers))) if _strategy else numbers


def broadcast(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array of the chief; the other workers pass any array of the same shape and dtype."""
    if not _strategy:
        return array
    return all_reduce_sum(array if is_chief() else np.zeros_like(array)).astype(array.dtype)


def all_gather(array: NDArray[Any]) -> NDArray[Any]:
    """Return the rows of all workers, in the order of the workers."""
    if not _strategy:
        return array
    whole = np.zeros((len(array) * size(), *array.shape[1:]), array.dtype)
    whole[batch_rows(len(whole))] = array
    return all_reduce_sum(whole).astype(array.dtype)


def broadcast_json(value: Any) -> Any:
    """Return the value of the chief, which must be valid JSON; the values of other workers are ignored."""
    if not _strategy:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_chief() else np.zeros(0, np.uint8)
    length = int(broadcast(np.array([len(data)]))[0])
    return json.loads(broadcast(data if is_chief() else np.zeros(length, np.uint8)).tobytes())
