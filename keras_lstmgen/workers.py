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
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.errors import UserError
from keras_lstmgen.quiet import quiet

WAIT = 300.0  # seconds for all workers to come
VARIABLE = "TF_CONFIG"
KINDS = ("chief", "worker")
GONE = (  # what an operator says where the other side has ended
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.FailedPreconditionError,
    tf.errors.DeadlineExceededError,
)  # fmt: skip
_strategy: Any = None
_rank = 0


@contextmanager
def together() -> Iterator[None]:
    """Meet the other workers that ``TF_CONFIG`` names, if it does, before any operator runs; part when all are done.

    Raises UserError where the variable cannot be used, and where another worker ends before its time. If one does not
    come within ``WAIT`` seconds, the process ends at once: it says who is missing, and has status 2.
    """
    names, rank = _named()
    if len(names) == 1:
        yield
        return
    try:
        with _deadline(names):
            _meet(rank)
        yield
        total(np.zeros(1))  # nobody leaves before all are done
    except GONE as error:
        raise UserError(
            f"worker {rank} of {len(names)}: another worker has ended; see what it said, and begin all again, "
            "with --resume RUN if there is a run"
        ) from error


def _named() -> tuple[list[str], int]:
    """The addresses of all workers, the chief's first, and which of them this process is."""
    if VARIABLE not in os.environ:
        return [""], 0
    try:
        about = json.loads(os.environ[VARIABLE])
        cluster, task = about["cluster"], about["task"]
        names = [str(name) for kind in KINDS for name in cluster.get(kind, [])]
        return names, names.index(cluster[task["type"]][int(task["index"])])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{VARIABLE}: does not name the workers and this one of them ({error}); it wants "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from error


@contextmanager
def _deadline(names: list[str]) -> Iterator[None]:
    """End the process where the block takes longer than ``WAIT``: TensorFlow would wait for ever, deaf to signals."""
    screen = os.dup(2)

    def give_up() -> None:
        missing = ", ".join(f"{number} ({name})" for number, name in enumerate(names) if not _answers(name))
        told = f"worker {missing or 'of some number'} has not come within {WAIT:.0f} seconds; start all of them anew"
        os.write(screen, f"keras-lstmgen: {told}\n".encode())
        os._exit(2)

    timer = threading.Timer(WAIT, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        os.close(screen)


def _answers(name: str) -> bool:
    host, _, port = name.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def _meet(rank: int) -> None:
    global _strategy, _rank
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with quiet():
            _strategy, _rank = tf.distribute.MultiWorkerMirroredStrategy(), rank
            total(np.zeros(1))
    except RuntimeError as error:
        raise UserError(f"{VARIABLE}: the workers could not meet ({str(error).splitlines()[0]})") from error
    finally:
        for number, handler in handlers.items():  # TensorFlow takes SIGTERM for itself
            signal.signal(number, handler)


def size() -> int:
    """How many workers there are."""
    return int(_strategy.num_replicas_in_sync) if _strategy else 1


def is_chief() -> bool:
    """Whether this process reads and writes the run."""
    return _rank == 0


def rows(B: int) -> slice:
    """Which rows of a batch of ``B`` are this worker's: ``slice(4, 8)`` of 12 for the second of three."""
    share = B // size()
    return slice(share * _rank, share * (_rank + 1))


def mean(tensors: Sequence[Any]) -> list[Any]:
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


def total(array: NDArray[Any]) -> NDArray[np.float64]:
    """The sum over all workers of arrays of one shape."""
    numbers = np.asarray(array, np.float64)
    return np.asarray(_summed_now(tf.constant(numbers))) if _strategy else numbers


def of_chief(array: NDArray[Any]) -> NDArray[Any]:
    """The chief's numbers; the others give an array of its shape and dtype, whatever is in it."""
    if not _strategy:
        return array
    return total(array if is_chief() else np.zeros_like(array)).astype(array.dtype)


def gathered(array: NDArray[Any]) -> NDArray[Any]:
    """The rows of all workers, in their order."""
    if not _strategy:
        return array
    whole = np.zeros((len(array) * size(), *array.shape[1:]), array.dtype)
    whole[rows(len(whole))] = array
    return total(whole).astype(array.dtype)


def told(value: Any) -> Any:
    """What the chief tells, as JSON; what the others give does not matter."""
    if not _strategy:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_chief() else np.zeros(0, np.uint8)
    length = int(of_chief(np.array([len(data)]))[0])
    return json.loads(of_chief(data if is_chief() else np.zeros(length, np.uint8)).tobytes())
