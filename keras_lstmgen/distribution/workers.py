"""Collective operations for synchronous data-parallel training with several processes (workers).

Each worker trains the same model on its own rows of each batch. All workers start with the same weights. In each
update, ``tf.distribute`` averages the gradients of all workers. Values that control the training, such as the
validation loss, are also summed over all workers. Therefore all workers make the same updates and decisions. The first
worker, called the chief, reads and writes the run.

The environment variable ``TF_CONFIG`` lists the workers in the format of
``tf.distribute.MultiWorkerMirroredStrategy``. If there is only one worker, the collective operations return their
argument.
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

WAIT = 300.0  # seconds within which all workers must connect
GREETING = 10.0  # seconds within which a connected worker must send its index
VARIABLE = "TF_CONFIG"
KINDS = ("chief", "worker")  # keys of "cluster" in TF_CONFIG
CONNECTION_ERRORS = (  # errors that a collective operation raises after another worker has ended
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.FailedPreconditionError,
    tf.errors.DeadlineExceededError,
)  # fmt: skip
_strategy: Any = None
_rank = 0


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the other workers in ``TF_CONFIG``, and when the block ends, wait until all workers reach its end.

    Enter this context before TensorFlow runs any operator. If ``TF_CONFIG`` is not set or lists only
    one worker, the context does nothing.

    Raises:
        UserError: ``TF_CONFIG`` is invalid, a worker does not connect within ``WAIT`` seconds, or another worker fails.
    """
    names, rank = _read_config()
    if len(names) == 1:
        yield
        return
    try:
        _await(names, rank)
        _create_strategy(rank)
        yield
        all_reduce_sum(np.zeros(1))  # wait until all workers have finished the block
        with suppress(*CONNECTION_ERRORS):  # wait until all workers have received the result of the first sum
            all_reduce_sum(np.zeros(1))
    except CONNECTION_ERRORS as error:
        raise UserError(
            f"worker {rank} of {len(names)}: another worker has ended; read its error message, and start all workers "
            "again; add --resume RUN if the training has saved a run"
        ) from error


def _read_config() -> tuple[list[str], int]:
    """Read ``TF_CONFIG``.

    Returns:
        The addresses ``host:port`` of all workers, beginning with the chief, and the index of this worker in the list.
    """
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
            f"{VARIABLE}: invalid ({error}); the value must list all workers and the index of this one, in the format "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from error


def _await(names: list[str], rank: int) -> None:
    """Wait until all workers have connected to the chief.

    TensorFlow connects the workers later. It would wait for missing workers without a time limit and ignore Ctrl-C.

    Args:
        names: addresses of all workers.
        rank: index of this worker.

    Raises:
        UserError: a worker does not connect within ``WAIT`` seconds.
    """
    deadline = time.monotonic() + WAIT
    missing = _accept_workers(names, deadline) if rank == 0 else _register(names[0], rank, deadline)
    if missing:
        shown = ", ".join(f"{number} ({names[number]})" for number in missing)
        raise UserError(f"worker {shown} has not connected within {WAIT:.0f} seconds; start all workers again")


def _accept_workers(names: list[str], deadline: float) -> list[int]:
    """In the chief, wait until the other workers connect, and send the indices of the missing workers to them.

    The chief listens at its own address in ``TF_CONFIG``. TensorFlow uses the same address afterwards.

    Args:
        names: addresses of all workers.
        deadline: time of ``time.monotonic`` after which the chief stops waiting.

    Returns:
        The indices of the workers that have not connected.
    """
    sockets: dict[int, socket.socket] = {}
    with ExitStack() as stack:
        server = stack.enter_context(_listen(names[0]))
        while len(sockets) < len(names) - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(OSError, ValueError):  # raised after a timeout or a connection from another program
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
    """Listen at the port of an address ``host:port``.

    If the host is the loopback interface, only processes on this machine can connect. Otherwise the socket listens on
    all network interfaces.
    """
    host, port = _address(name)
    try:
        return socket.create_server((host if host == "localhost" or host.startswith("127.") else "", port))
    except OSError as error:
        raise UserError(f"{VARIABLE}: the chief cannot listen at {name} ({error.strerror or error})") from error


def _register(chief: str, rank: int, deadline: float) -> list[int]:
    """Send the index of this worker to the chief.

    Args:
        chief: address of the chief.
        rank: index of this worker.
        deadline: time of ``time.monotonic`` after which this worker stops trying.

    Returns:
        The indices of the workers that have not connected. If the chief does not answer, the result is ``[0]``.
    """
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
    """Return the index of a worker in ``TF_CONFIG`` as an int; raise ValueError for other values."""
    if not re.fullmatch("[0-9]{1,9}", f"{value}"):
        raise ValueError(f"the index {numerals.shortened(repr(value))} is not a whole number")
    return int(value)


def _address(name: str) -> tuple[str, int]:
    """Split an address ``host:port`` into host and port; raise ValueError if the port is invalid."""
    host, _, port = name.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ValueError(f"the port of {numerals.shortened(name)} is not a number from 1 to 65535")
    return host, int(port)


def _create_strategy(rank: int) -> None:
    """Connect the workers by creating TensorFlow's strategy for several workers."""
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
    """Return whether this process is the chief: the worker that reads and writes the run."""
    return _rank == 0


def batch_rows(B: int) -> slice:
    """Return the slice of a batch that this worker processes.

    For example, the second of three workers processes ``slice(4, 8)`` of a batch with 12 rows.

    Args:
        B: batch size, a multiple of the number of workers.
    """
    share = B // size()
    return slice(share * _rank, share * (_rank + 1))


def all_reduce_mean(tensors: Sequence[Any]) -> list[Any]:
    """Return the mean of each tensor over all workers. Call this function inside a ``tf.function``.

    The tensors are concatenated, so that a single collective operator is enough for all tensors.

    Args:
        tensors: float32 tensors with the same shapes in all workers.

    Returns:
        The means, with the shapes of ``tensors``.
    """
    if not _strategy:
        return list(tensors)
    together = _summed(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)) / np.float32(size())
    parts = tf.split(together, [math.prod(tensor.shape) for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _summed(tensor: Any) -> Any:
    """Return the sum of a tensor over all workers. Call this function inside a ``tf.function``."""

    def reduce(part: Any) -> Any:
        with tf.device(_strategy.extended.worker_devices[0]):  # all_reduce needs a tensor that is placed on a device
            placed = tf.identity(part)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, placed)

    return _strategy.run(reduce, args=(tensor,))


@tf.function(reduce_retracing=True, autograph=False)
def _summed_now(tensor: Any) -> Any:
    """Return the sum of a tensor over all workers; callable outside a ``tf.function``."""
    return _summed(tensor)


def all_reduce_sum(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum of an array over all workers.

    Args:
        array: numbers of this worker, with the same shape in all workers.

    Returns:
        A float64 array with this shape.
    """
    numbers = np.asarray(array, np.float64)
    return np.asarray(_summed_now(tf.constant(numbers))) if _strategy else numbers


def broadcast(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array of the chief in every worker.

    Args:
        array: in the chief, the array to send; in other workers, any array with the same shape and dtype.
    """
    if not _strategy:
        return array
    return all_reduce_sum(array if is_chief() else np.zeros_like(array)).astype(array.dtype)


def all_gather(array: NDArray[Any]) -> NDArray[Any]:
    """Concatenate the rows of all workers, in the order of the workers.

    Args:
        array: the rows of this worker, with the same shape and dtype in all workers.

    Returns:
        An array with the rows of all workers in its first dimension.
    """
    if not _strategy:
        return array
    whole = np.zeros((len(array) * size(), *array.shape[1:]), array.dtype)
    whole[batch_rows(len(whole))] = array
    return all_reduce_sum(whole).astype(array.dtype)


def broadcast_json(value: Any) -> Any:
    """Return the value of the chief in every worker.

    Args:
        value: in the chief, the value to send, which JSON must be able to represent; in other workers, any value.
    """
    if not _strategy:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_chief() else np.zeros(0, np.uint8)
    length = int(broadcast(np.array([len(data)]))[0])
    return json.loads(broadcast(data if is_chief() else np.zeros(length, np.uint8)).tobytes())
