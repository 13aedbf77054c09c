"""Checkpoints: one ``.keras`` file with everything that a training needs to continue as if it had never stopped."""

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

CARRYING = (keras.layers.LSTM, Attention)  # layers whose state one batch leaves to the next
HISTORY_KEYS = {"windows", "seconds", "loss", "val_loss"}
DAMAGE_ERRNOS = (None, errno.ENOENT, errno.EINVAL, errno.EISDIR)  # errno of an OSError by h5py or zipfile for damage
MAX_WINDOWS, MAX_SETBACKS, MAX_LOSS = 2**53, 64, 700  # far beyond the values of any training


@dataclass
class Progress:
    """Progress of a training; every checkpoint contains it.

    Attributes:
        windows: number of batches trained on, over all epochs.
        seconds: training time.
        best: lowest validation loss in nats per token.
        stale: number of whole epochs since the lowest validation loss.
        setbacks: number of returns to a checkpoint after a divergence; each halves the learning rate.
        lately: the part of ``setbacks`` since the end of an epoch.
        text: sha256 of the ids of both splits.
        history: one row per epoch: windows, seconds, training loss and validation loss.
        measured: sums of the metrics since the epoch began.
    """

    windows: int = 0
    seconds: float = 0.0
    best: float = math.inf
    stale: int = 0
    setbacks: int = 0
    lately: int = 0
    text: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)


def save(folder: Path, model: keras.Sequential, progress: Progress) -> float:
    """Save weights, optimizer, carried states, seeds, metrics and progress.

    The file is replaced atomically, and the previous checkpoint remains as the second one. All workers must call this
    function. The chief writes the states of the rows of all workers and the means of their metrics, so that any number
    of workers can resume.

    Args:
        folder: folder of the run.
        model: the compiled model.
        progress: progress of the training; its ``measured`` is updated.

    Returns:
        The seconds that the chief needed.
    """
    began = time.perf_counter()
    sums = np.array([float(variable.numpy()) for variable in metric_variables(model)])
    progress.measured = (workers.all_reduce_sum(sums) / workers.size()).tolist()
    states = [workers.all_gather(state.numpy()) for state in row_states(model)]
    states += [variable.numpy() for variable in _other_variables(model)]
    if workers.is_chief():
        _write(folder, model, progress, states)
    return float(workers.broadcast(np.array(time.perf_counter() - began)))


def _write(folder: Path, model: keras.Sequential, progress: Progress, states: list[Any]) -> None:
    """Write a checkpoint file, and keep the one before."""
    array_file = io.BytesIO()
    np.savez(array_file, *states)
    with atomic.replacing(folder / CHECKPOINT, before=folder / PREVIOUS) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:  # Keras ignores members that it does not know
            archive.writestr("carried.npz", array_file.getvalue())
            archive.writestr("progress.json", json.dumps(asdict(progress)))


def exists(folder: Path) -> bool:
    """Return whether a run has a checkpoint, which may be damaged."""
    return any((folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))


def load(folder: Path, model: keras.Sequential, text: str) -> tuple[Progress, str]:
    """Load the last undamaged checkpoint into a compiled model.

    All workers must call this function; the chief reads the file.

    Args:
        folder: folder of the run.
        model: the compiled model.
        text: sha256 of the ids of both splits.

    Returns:
        The progress of the training, and a warning if the last checkpoint is damaged, otherwise "".

    Raises:
        UserError: if both checkpoints are damaged, or if the checkpoint is of another text.
    """
    progress, states, warning = _read(folder, model, text) if workers.is_chief() else (Progress(), [], "")
    return share(model, progress, states), warning


def share(model: keras.Sequential, progress: Progress, states: list[Any]) -> Progress:
    """Send the chief's variables, states and progress to all workers.

    Args:
        model: the compiled model, into which each worker copies what it receives.
        progress: progress of the training; only the chief's is used.
        states: on the chief, the carried states of the rows of all workers; empty for zeros.

    Returns:
        The chief's progress.
    """
    for number, variable in enumerate(row_states(model)):
        zeros = np.zeros((variable.shape[0] * workers.size(), *variable.shape[1:]), np.float32)
        whole = workers.broadcast(states[number] if states else zeros)
        variable.assign(whole[workers.batch_rows(len(whole))])
    if workers.size() == 1:
        return progress
    carried = {id(variable) for variable in row_states(model)}
    for variable in (*model.variables, *model.optimizer.variables):
        if id(variable) not in carried:
            variable.assign(workers.broadcast(variable.numpy()))
    return Progress(**workers.broadcast_json(asdict(progress)))


def _read(folder: Path, model: keras.Sequential, text: str) -> tuple[Progress, list[Any], str]:
    """Load the last undamaged checkpoint; return the progress, the states of all rows and a warning."""
    try:
        return *_load(folder / CHECKPOINT, model, text), ""
    except _DamagedError as damage:
        try:
            progress, states = _load(folder / PREVIOUS, model, text)
        except _DamagedError:
            raise UserError(f"{damage}; start the training again") from damage
        os.replace(folder / PREVIOUS, folder / CHECKPOINT)
        return progress, states, f"{damage}; using the checkpoint before it instead"


class _DamagedError(Exception):
    """A checkpoint cannot be loaded; the message says which one and why."""


def _load(path: Path, model: keras.Sequential, text: str) -> tuple[Progress, list[Any]]:
    """Load one checkpoint file; return the progress and the states of all rows."""
    try:
        with zipfile.ZipFile(path) as archive:
            atomic.check_zip(archive)
            progress = _checked(Progress(**json.loads(archive.read("progress.json"))), len(metric_variables(model)))
            states = _arrays(archive.read("carried.npz"))
        if progress.text == text:
            model.load_weights(path)
            _check_shapes(model, states)
            for variable, state in zip(_other_variables(model), states[len(row_states(model)) :], strict=True):
                variable.assign(state)
    except Exception as error:  # zipfile, h5py, Keras and NumPy raise different errors for damaged files
        reason = first_line(error)
        if _is_temporary(error):
            raise UserError(
                f"{path}: cannot be read now ({reason}), but may be undamaged; try again, or remove it to use the "
                "checkpoint before it"
            ) from error
        raise _DamagedError(f"{path}: is damaged ({reason})") from error
    if progress.text != text:
        raise UserError(f"{path.parent}: the corpus has changed since this run was trained; start a new run")
    return progress, states[: len(row_states(model))]


def _is_temporary(error: Exception) -> bool:
    """Return whether an error has a temporary cause, such as too many open files, and does not prove damage."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in DAMAGE_ERRNOS)


def _check_shapes(model: keras.Sequential, states: list[Any]) -> None:
    """Raise ValueError if a carried state does not have the shape that the model needs."""
    for variable, state in zip(row_states(model), states, strict=False):
        if state.shape != (variable.shape[0] * workers.size(), *variable.shape[1:]):
            raise ValueError(f"a carried state of the shape {state.shape}")


def _arrays(npz: bytes) -> list[NDArray[Any]]:
    """Return the arrays of ``np.savez`` in their order; compressed or pickled arrays are refused."""
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        atomic.check_zip(archive)
    with np.load(io.BytesIO(npz), allow_pickle=False) as states:
        return [states[name] for name in states.files]


def _checked(progress: Progress, metrics: int) -> Progress:
    """Return the progress; raise ValueError if no training with this number of metric variables can reach it."""
    counts, numbers = (progress.windows, progress.stale), [progress.seconds, *progress.measured]
    numbers += [] if progress.best == math.inf else [progress.best]
    for row in progress.history:
        numbers += row.values()
    is_valid = (
        all(type(count) is int and 0 <= count <= MAX_WINDOWS for count in counts)
        and all(number in range(MAX_SETBACKS) for number in (progress.setbacks, progress.lately))
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and all(
            row.keys() == HISTORY_KEYS and max(abs(row["loss"]), abs(row["val_loss"])) < MAX_LOSS
            for row in progress.history
        )
        and (progress.seconds > 0 or progress.seconds == progress.windows == 0)
        and len(progress.measured) == metrics
    )
    if not is_valid:
        raise ValueError("progress.json has impossible values")
    return progress


def carried_variables(model: keras.Sequential) -> list[Any]:
    """Return the variables that one batch leaves to the next and Keras does not save: states and dropout seeds."""
    return row_states(model) + _other_variables(model)


def row_states(model: keras.Sequential) -> list[Any]:
    """Return the carried LSTM states and attention memories, of which each worker has its rows."""
    return [state for layer in layers_of(model) if isinstance(layer, CARRYING) for state in layer.states or ()]


def _other_variables(model: keras.Sequential) -> list[Any]:
    """Return the variables of a model that are not weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def metric_variables(model: keras.Sequential) -> list[Any]:
    """Return the scalar variables in which Keras sums the metrics of an epoch."""
    return [variable for metric in model.metrics for variable in metric.variables]


def restore_metrics(model: keras.Sequential, progress: Progress) -> None:
    """Set the metrics of an epoch to their values in the last checkpoint."""
    for variable, value in zip(metric_variables(model), progress.measured, strict=True):
        variable.assign(value)
