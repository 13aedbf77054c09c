"""Checkpoints: all that a training needs to go on as if it had never been stopped, in one ``.keras`` file.

A run keeps the last two. Whatever moment a process dies at, one of them is whole.
"""

import errno
import io
import json
import math
import os
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.distribution import workers
from keras_lstmgen.files import atomic
from keras_lstmgen.layers.attention import Attention
from keras_lstmgen.layers.ensemble import layers_of
from keras_lstmgen.models.run_directory import CHECKPOINT, PREVIOUS
from keras_lstmgen.utils.errors import UserError, first_line

CARRYING = (keras.layers.LSTM, Attention)  # layers that leave something to the next window of a text
ROW = {"windows", "seconds", "loss", "val_loss"}  # of the history
OF_THE_FILE = (None, errno.ENOENT, errno.EINVAL, errno.EISDIR)  # of an OSError: what h5py and zipfile say of damage
MOST_WINDOWS, MOST_SETBACKS, MOST_NATS = 2**53, 64, 700  # far beyond what any training comes to


@dataclass
class Progress:
    """How far a training is; it stands in every checkpoint."""

    windows: int = 0  # batches trained on, over all epochs
    seconds: float = 0.0
    best: float = math.inf  # lowest validation loss, nats per token
    stale: int = 0  # whole epochs since then
    setbacks: int = 0  # times that the loss was lost and it went back: the rate is halved for each
    lately: int = 0  # of these, since the end of an epoch
    text: str = ""  # sha256 of the ids that it learns from and is measured on
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch
    measured: list[float] = field(default_factory=list)  # what the metrics have summed up since the epoch began


def save(folder: Path, model: keras.Sequential, progress: Progress) -> float:
    """Save weights, optimizer, carried states, seeds, metrics and progress; the checkpoint before becomes the second.

    A checkpoint is one ``.keras`` file, whole or not at all. Gives the seconds that it took. Several workers all come
    here, and the chief writes what one process would have: the states of all rows, the mean of the metrics.
    """
    began = time.perf_counter()
    sums = np.array([float(variable.numpy()) for variable in metrics(model)])
    progress.measured = (workers.all_reduce_sum(sums) / workers.size()).tolist()
    states = [workers.all_gather(state.numpy()) for state in of_rows(model)] + [one.numpy() for one in _others(model)]
    if workers.is_chief():
        _write(folder, model, progress, states)
    return float(workers.broadcast(np.array(time.perf_counter() - began)))


def _write(folder: Path, model: keras.Sequential, progress: Progress, carry: list[Any]) -> None:
    states = io.BytesIO()
    np.savez(states, *carry)
    with atomic.replacing(folder / CHECKPOINT, before=folder / PREVIOUS) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:  # Keras passes over members that it does not know
            archive.writestr("carried.npz", states.getvalue())
            archive.writestr("progress.json", json.dumps(asdict(progress)))


def exists(folder: Path) -> bool:
    """Whether a run has a checkpoint, whole or not."""
    return any((folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))


def load(folder: Path, model: keras.Sequential, text: str) -> tuple[Progress, str]:
    """Put the last checkpoint that is whole into a compiled ``model``; give the progress and, if any, a complaint.

    Raises UserError if none is whole, or if it is of another ``text`` (``Progress.text``). Of several workers, who all
    come here, the chief reads.
    """
    progress, states, complaint = _read(folder, model, text) if workers.is_chief() else (Progress(), [], "")
    progress = share(model, progress, states)
    return progress, complaint


def share(model: keras.Sequential, progress: Progress, states: list[Any]) -> Progress:
    """Give all workers what the chief has in ``model``, and their rows of ``states``; give the chief's progress."""
    for number, variable in enumerate(of_rows(model)):
        mine = np.zeros((variable.shape[0] * workers.size(), *variable.shape[1:]), np.float32)
        whole = workers.broadcast(states[number] if states else mine)
        variable.assign(whole[workers.batch_rows(len(whole))])
    if workers.size() == 1:
        return progress
    carry = {id(variable) for variable in of_rows(model)}
    for variable in (*model.variables, *model.optimizer.variables):
        if id(variable) not in carry:
            variable.assign(workers.broadcast(variable.numpy()))
    return Progress(**workers.broadcast_json(asdict(progress)))


def _read(folder: Path, model: keras.Sequential, text: str) -> tuple[Progress, list[Any], str]:
    """The progress, the states of all rows, and a complaint; all else is put into ``model``."""
    try:
        return *_load(folder / CHECKPOINT, model, text), ""
    except _DamagedError as damage:
        try:
            progress, states = _load(folder / PREVIOUS, model, text)
        except _DamagedError:
            raise UserError(f"{damage}; start the training again") from damage
        os.replace(folder / PREVIOUS, folder / CHECKPOINT)
        return progress, states, f"{damage}; the checkpoint before it is whole, and takes its place"


class _DamagedError(Exception):
    """Says which checkpoint cannot be gone on from, and why."""


def _load(path: Path, model: keras.Sequential, text: str) -> tuple[Progress, list[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            atomic.check_zip(archive)
            progress = _checked(Progress(**json.loads(archive.read("progress.json"))), len(metrics(model)))
            states = _arrays(archive.read("carried.npz"))
        if progress.text == text:
            model.load_weights(path)
            _check_shapes(model, states)
            for variable, state in zip(_others(model), states[len(of_rows(model)) :], strict=True):
                variable.assign(state)
    except Exception as error:  # zipfile, h5py, Keras and NumPy each have their own for a damaged file
        reason = first_line(error)
        if _says_nothing_of_the_file(error):
            raise UserError(
                f"{path}: cannot be read now ({reason}), and may be whole; try again, or remove it, and the checkpoint "
                "before it is taken"
            ) from error
        raise _DamagedError(f"{path}: cannot be gone on from ({reason})") from error
    if progress.text != text:
        raise UserError(f"{path.parent}: its corpus is not the text that it was trained on any more; start a new run")
    return progress, states[: len(of_rows(model))]


def _says_nothing_of_the_file(error: Exception) -> bool:
    """Whether it comes of this moment: too many files open, no memory, a disk that does not answer."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in OF_THE_FILE)


def _check_shapes(model: keras.Sequential, states: list[Any]) -> None:
    for variable, state in zip(of_rows(model), states, strict=False):
        if state.shape != (variable.shape[0] * workers.size(), *variable.shape[1:]):
            raise ValueError(f"a carried state of the shape {state.shape}")


def _arrays(npz: bytes) -> list[NDArray[Any]]:
    """The arrays of ``np.savez``, in their order, none of which may be packed or pickled."""
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        atomic.check_zip(archive)
    with np.load(io.BytesIO(npz), allow_pickle=False) as states:
        return [states[name] for name in states.files]


def _checked(progress: Progress, sums: int) -> Progress:
    """Hold all numbers against what a training with so many ``sums`` can have come to; ValueError where they differ."""
    counts, numbers = (progress.windows, progress.stale), [progress.seconds, *progress.measured]
    numbers += [] if progress.best == math.inf else [progress.best]
    for row in progress.history:
        numbers += row.values()
    right = (
        all(type(count) is int and 0 <= count <= MOST_WINDOWS for count in counts)
        and all(number in range(MOST_SETBACKS) for number in (progress.setbacks, progress.lately))
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and all(
            row.keys() == ROW and max(abs(row["loss"]), abs(row["val_loss"])) < MOST_NATS for row in progress.history
        )
        and (progress.seconds > 0 or progress.seconds == progress.windows == 0)
        and len(progress.measured) == sums
    )
    if not right:
        raise ValueError("its progress is that of no training")
    return progress


def carried(model: keras.Sequential) -> list[Any]:
    """What one batch leaves to the next and Keras saves nowhere: states, memories and all dropouts' seeds, in order."""
    return of_rows(model) + _others(model)


def of_rows(model: keras.Sequential) -> list[Any]:
    """The states and memories, of which each worker has those of its rows."""
    return [state for layer in layers_of(model) if isinstance(layer, CARRYING) for state in layer.states or ()]


def _others(model: keras.Sequential) -> list[Any]:
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def metrics(model: keras.Sequential) -> list[Any]:
    """The scalars in which the metrics of an epoch sum up."""
    return [variable for metric in model.metrics for variable in metric.variables]
