"""Several processes that train one model, each on its share of the rows of every batch.

All of them run the same ``fit`` from the same weights. What they make of it is put together by the collective operators
of ``tf.distribute``: the gradients within the update, and after it all that decides how to go on, so that they all make
the same updates and the same decisions. The first of them, the chief, reads the run and writes it. Who they are stands
in the variable ``TF_CONFIG``, as ``tf.distribute.MultiWorkerMirroredStrategy`` has it.

In a process that is alone every function gives back what it is given.
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

WAIT = 300.0  # seconds for all workers to come
GREETING = 10.0  # seconds for one of them to say who it is
VARIABLE = "TF_CONFIG"
KINDS = ("chief", "worker")
GONE = (  # what an operator says where the other side has ended
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.FailedPreconditionError,
    tf.errors.DeadlineExceededError,
)  # fmt: skip
_strategy: Any = None
_rank = 0


@contextmanager
def connected() -> Iterator[None]:
    """Meet the other workers that ``TF_CONFIG`` names, if it does, before any operator runs; part when all are done.

    Raises UserError where the variable cannot be used, where a worker does not come within ``WAIT`` seconds, and where
    another one ends before its time.
    """
    names, rank = _named()
    if len(names) == 1:
        yield
        return
    try:
        _await(names, rank)
        _meet(rank)
        yield
        all_reduce_sum(np.zeros(1))  # nobody leaves before all are done
        with suppress(*GONE):  # nor before all know it: another may have yet to fetch its part of that sum
            all_reduce_sum(np.zeros(1))
    except GONE as error:
        raise UserError(
            f"worker {rank} of {len(names)}: another worker has ended; see what it said, and begin all again, "
            "with --resume RUN if there is a run"
        ) from error


def _named() -> tuple[list[str], int]:
    """The addresses of all workers, the chief's first, and which of them this process is."""
    if not os.environ.get(VARIABLE):
        return [""], 0
    try:
        about = json.loads(os.environ[VARIABLE])
        cluster, task = about["cluster"], about["task"]
        names = [str(name) for kind in KINDS for name in cluster.get(kind, [])]
        for name in names:
            _address(name)
        return names, names.index(cluster[task["type"]][_index(task["index"])])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{VARIABLE}: does not name the workers and this one of them ({error}); it wants "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from error


def _await(names: list[str], rank: int) -> None:
    """Return when all workers are there: TensorFlow itself would wait for ever, deaf to Ctrl-C. Else UserError."""
    until = time.monotonic() + WAIT
    missing = _receive(names, until) if rank == 0 else _greet(names[0], rank, until)
    if missing:
        told = ", ".join(f"{number} ({names[number]})" for number in missing)
        raise UserError(f"worker {told} has not come within {WAIT:.0f} seconds; start all of them anew")


def _receive(names: list[str], until: float) -> list[int]:
    """Be the chief, at the address that TensorFlow takes next: tell all who came who did not."""
    here: dict[int, socket.socket] = {}
    with ExitStack() as stack:
        door = stack.enter_context(_door(names[0]))
        while len(here) < len(names) - 1 and (left := until - time.monotonic()) > 0:
            door.settimeout(left)
            with suppress(OSError, ValueError):  # the time is up, or it was somebody else, who does not say a number
                guest = stack.enter_context(door.accept()[0])
                guest.settimeout(GREETING)
                if (number := int(guest.recv(16))) in range(1, len(names)):
                    here.setdefault(number, guest)
        missing = [number for number in range(1, len(names)) if number not in here]
        for guest in here.values():
            with suppress(OSError):
                guest.sendall(json.dumps(missing).encode() + b"\n")
        return missing


def _door(name: str) -> socket.socket:
    """Open to this machine alone where the workers are all on it, else at every address of it."""
    host, port = _address(name)
    try:
        return socket.create_server((host if host == "localhost" or host.startswith("127.") else "", port))
    except OSError as error:
        raise UserError(f"{VARIABLE}: the chief cannot be at {name} ({error.strerror or error})") from error


def _greet(chief: str, rank: int, until: float) -> list[int]:
    """Be another worker: who the chief says is missing; the chief itself, if it does not answer."""
    while (left := until - time.monotonic()) > 0:
        with (
            suppress(OSError, ValueError),
            socket.create_connection(_address(chief), timeout=min(left, GREETING)) as door,
        ):
            door.sendall(str(rank).encode())
            door.settimeout(WAIT + GREETING)
            return [int(number) for number in json.loads(door.makefile().readline())]
        time.sleep(0.2)
    return [0]


def _index(value: Any) -> int:
    """A number of ``TF_CONFIG``, also written as a string; ValueError for one that is none, or is negative."""
    if not re.fullmatch("[0-9]{1,9}", f"{value}"):
        raise ValueError(f"its index is {numerals.shortened(repr(value))}")
    return int(value)


def _address(name: str) -> tuple[str, int]:
    host, _, port = name.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ValueError(f"the port of {numerals.shortened(name)} is no number from 1 to 65535")
    return host, int(port)


def _meet(rank: int) -> None:
    global _strategy, _rank
    try:
        with captured_stderr(), signals.restored(signal.SIGINT, signal.SIGTERM):  # TensorFlow takes SIGTERM for itself
            _strategy, _rank = tf.distribute.MultiWorkerMirroredStrategy(), rank
            all_reduce_sum(np.zeros(1))
    except RuntimeError as error:
        raise UserError(f"{VARIABLE}: the workers could not meet ({first_line(error)})") from error


def size() -> int:
    """How many workers there are."""
    return int(_strategy.num_replicas_in_sync) if _strategy else 1


def is_chief() -> bool:
    """Whether this process reads and writes the run."""
    return _rank == 0


def batch_rows(B: int) -> slice:
    """Which rows of a batch of ``B`` are this worker's: ``slice(4, 8)`` of 12 for the second of three."""
    share = B // size()
    return slice(share * _rank, share * (_rank + 1))


def all_reduce_mean(tensors: Sequence[Any]) -> list[Any]:
    """Within a graph: the mean over all workers of each of these tensors, float32. They travel together, as one."""
    if not _strategy:
        return list(tensors)
    together = _summed(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)) / np.float32(size())
    parts = tf.split(together, [math.prod(tensor.shape) for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _summed(tensor: Any) -> Any:
    def sum_up(part: Any) -> Any:
        with tf.device(_strategy.extended.worker_devices[0]):  # a tensor without a device has nowhere to go to
            here = tf.identity(part)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

    return _strategy.run(sum_up, args=(tensor,))


@tf.function(reduce_retracing=True)
def _summed_now(tensor: Any) -> Any:
    return _summed(tensor)


def all_reduce_sum(array: NDArray[Any]) -> NDArray[np.float64]:
    """The sum over all workers of arrays of one shape."""
    numbers = np.asarray(array, np.float64)
    return np.asarray(_summed_now(tf.constant(numbers))) if _strategy else numbers


def broadcast(array: NDArray[Any]) -> NDArray[Any]:
    """The chief's numbers; the others give an array of its shape and dtype, whatever is in it."""
    if not _strategy:
        return array
    return all_reduce_sum(array if is_chief() else np.zeros_like(array)).astype(array.dtype)


def all_gather(array: NDArray[Any]) -> NDArray[Any]:
    """The rows of all workers, in their order."""
    if not _strategy:
        return array
    whole = np.zeros((len(array) * size(), *array.shape[1:]), array.dtype)
    whole[batch_rows(len(whole))] = array
    return all_reduce_sum(whole).astype(array.dtype)


def broadcast_json(value: Any) -> Any:
    """What the chief tells, as JSON; what the others give does not matter."""
    if not _strategy:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_chief() else np.zeros(0, np.uint8)
    length = int(broadcast(np.array([len(data)]))[0])
    return json.loads(broadcast(data if is_chief() else np.zeros(length, np.uint8)).tobytes())
