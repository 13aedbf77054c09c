"""Save and load checkpoints. A resumed training gives the same results as a training without an interruption."""

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

CARRYING = (keras.layers.LSTM, Attention)  # layers that can pass their state from one batch to the next
HISTORY_KEYS = {"windows", "seconds", "loss", "val_loss"}
DAMAGE_ERRNOS = (None, errno.ENOENT, errno.EINVAL, errno.EISDIR)  # error numbers of h5py and zipfile for damaged files
MAX_WINDOWS, MAX_SETBACKS, MAX_LOSS = 2**53, 64, 700  # no training reaches these values


@dataclass
class Progress:
    """Progress of a training. Every checkpoint contains it.

    Attributes:
        windows: number of batches that the model has trained on in all epochs.
        seconds: training time in seconds.
        best: lowest validation loss, in nats per token.
        stale: number of whole epochs since the epoch with the lowest validation loss.
        setbacks: number of times that the training diverged and returned to a checkpoint. Each return halves the
            learning rate.
        lately: number of returns to a checkpoint since the last whole epoch without divergence.
        text: sha256 of the token ids of the training split and the validation split.
        history: one dictionary per epoch with the keys ``windows``, ``seconds``, ``loss`` and ``val_loss``. The losses
            are in nats per token.
        measured: values of the metric variables of Keras, which sum the metrics of the current epoch.
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
    """Save a checkpoint: weights, optimizer, LSTM states, dropout seeds, metrics and progress.

    The new checkpoint replaces the old one atomically. The old checkpoint is kept under another name.

    All workers must call this function, but only the chief writes the file. The file contains the LSTM states of the
    rows of all workers, and the means of the metrics over all workers. The training can therefore resume with another
    number of workers.

    Args:
        folder: folder of the run.
        model: the compiled model.
        progress: progress of the training. This function updates ``progress.measured``.

    Returns:
        The time in seconds that the chief needed to save the checkpoint.
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
    """Write a checkpoint file, and keep the previous checkpoint under another name."""
    array_file = io.BytesIO()
    np.savez(array_file, *states)
    with atomic.replacing(folder / CHECKPOINT, before=folder / PREVIOUS) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:  # Keras ignores these additional files
            archive.writestr("carried.npz", array_file.getvalue())
            archive.writestr("progress.json", json.dumps(asdict(progress)))


def exists(folder: Path) -> bool:
    """Return whether the folder of a run contains a checkpoint. The checkpoint may be damaged."""
    return any((folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))


def load(folder: Path, model: keras.Sequential, text: str) -> tuple[Progress, str]:
    """Load the last undamaged checkpoint of a run into a compiled model.

    All workers must call this function, but only the chief reads the file.

    Args:
        folder: folder of the run.
        model: the compiled model.
        text: sha256 of the token ids of the training split and the validation split.

    Returns:
        The progress of the training, and a warning. The warning is "" unless the last checkpoint is damaged.

    Raises:
        UserError: if both the last and the previous checkpoint are damaged, if a checkpoint cannot be read now, or if
            the checkpoint belongs to another text.
    """
    progress, states, warning = _read(folder, model, text) if workers.is_chief() else (Progress(), [], "")
    return share(model, progress, states), warning


def share(model: keras.Sequential, progress: Progress, states: list[Any]) -> Progress:
    """Copy the variables, LSTM states and progress of the chief to all workers.

    Args:
        model: the compiled model of this worker. The chief sends the variables of its model. Other workers overwrite
            the variables of their models.
        progress: progress of the training. Only the progress of the chief is used.
        states: LSTM states and attention memories of the rows of all workers, in the order of ``row_states``. Only the
            states of the chief are used. An empty list stands for zeros.

    Returns:
        The progress of the chief.
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
    """Load the last undamaged checkpoint, and return the progress, the states of all rows and a warning."""
    try:
        return *_load(folder / CHECKPOINT, model, text), ""
    except _DamagedError as damage:
        try:
            progress, states = _load(folder / PREVIOUS, model, text)
        except _DamagedError:
            raise UserError(f"{damage}; start the training again") from damage
        os.replace(folder / PREVIOUS, folder / CHECKPOINT)
        return progress, states, f"{damage}; using the previous checkpoint instead"


class _DamagedError(Exception):
    """A damaged checkpoint file. The message contains the path of the file and the reason."""


def _load(path: Path, model: keras.Sequential, text: str) -> tuple[Progress, list[Any]]:
    """Load one checkpoint file, and return the progress and the states of all rows."""
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
                "previous checkpoint"
            ) from error
        raise _DamagedError(f"{path}: is damaged ({reason})") from error
    if progress.text != text:
        raise UserError(f"{path.parent}: the corpus has changed since this run was trained; start a new run")
    return progress, states[: len(row_states(model))]


def _is_temporary(error: Exception) -> bool:
    """Return whether an error can have a temporary cause, such as too many open files, instead of a damaged file."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in DAMAGE_ERRNOS)


def _check_shapes(model: keras.Sequential, states: list[Any]) -> None:
    """Raise ValueError if a loaded LSTM state or attention memory does not have the shape that the model needs."""
    for variable, state in zip(row_states(model), states, strict=False):
        if state.shape != (variable.shape[0] * workers.size(), *variable.shape[1:]):
            raise ValueError(f"a carried state of the shape {state.shape}")


def _arrays(npz: bytes) -> list[NDArray[Any]]:
    """Return the arrays of an ``np.savez`` file in the saved order. Raise an error for compressed or pickled arrays."""
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        atomic.check_zip(archive)
    with np.load(io.BytesIO(npz), allow_pickle=False) as states:
        return [states[name] for name in states.files]


def _checked(progress: Progress, metrics: int) -> Progress:
    """Return ``progress`` unchanged. Raise ValueError if it contains a value that no training can produce."""
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
    """Return the variables that change with each batch but are not weights: LSTM states and dropout seeds."""
    return row_states(model) + _other_variables(model)


def row_states(model: keras.Sequential) -> list[Any]:
    """Return the LSTM states and attention memories of a model. Each worker stores only the states of its own rows."""
    return [state for layer in layers_of(model) if isinstance(layer, CARRYING) for state in layer.states or ()]


def _other_variables(model: keras.Sequential) -> list[Any]:
    """Return the variables of a model that are not weights, such as the seeds of dropout."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def metric_variables(model: keras.Sequential) -> list[Any]:
    """Return the scalar variables in which Keras sums the metrics of the current epoch."""
    return [variable for metric in model.metrics for variable in metric.variables]


def restore_metrics(model: keras.Sequential, progress: Progress) -> None:
    """Set the metric variables of a model to the values in ``progress.measured``."""
    for variable, value in zip(metric_variables(model), progress.measured, strict=True):
        variable.assign(value)
