"""Create, find and load run directories.

A run directory contains the model, the tokenizer and the metadata of a run. It can be moved to another place.
"""

import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_origin, get_type_hints

import h5py  # type: ignore[import-untyped]
import keras

from keras_lstmgen.config import recipe
from keras_lstmgen.files import atomic, filenames, folders
from keras_lstmgen.layers.attention import memory_size
from keras_lstmgen.models.builder import build, parameters
from keras_lstmgen.models.inference_step import Weights, weights_of
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError, first_line, shell_quoted

FORMAT_VERSION = 1
NONE = -1  # value of an id that a model does not have
METADATA, TOKENIZER, RECIPE = folders.METADATA, folders.TOKENIZER, folders.RECIPE
MODEL, CHECKPOINT = "model.keras", "checkpoint.keras"
PREVIOUS = "checkpoint.before.keras"  # the second newest checkpoint
WHOLE = "model.whole.keras"  # best model at the end of an epoch; exists if MODEL was saved within a later epoch


@dataclass(frozen=True)
class Metadata:
    """Metadata of a run, specified in ``docs/contract.md``; every exported artifact contains the metadata.

    Attributes:
        vocab_size: V, number of ids.
        state_size: S, number of float32 values in the state of a text.
        start_id: id of the start symbol.
        end_id: id of the end symbol, after which generation stops.
        prompt_start: whether the start symbol is prepended to every prompt.
        unsampled_ids: ids that generation never selects.
        recipe: the recipe of the training; "auto" values are replaced by the values that were used.
        metrics: losses of the run in nats per token, by name.
        source_end_id: id of the symbol that ends the source of a pair; -1 for a model that is not trained on pairs.
        format_version: version of this format.
        layer_units: units of each LSTM layer, if they differ; empty if the units of the recipe apply to all layers.
    """

    vocab_size: int
    state_size: int
    start_id: int
    end_id: int
    prompt_start: bool
    unsampled_ids: tuple[int, ...]
    recipe: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    source_end_id: int = NONE
    format_version: int = FORMAT_VERSION
    layer_units: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the metadata as a dictionary for JSON. The key ``layer_units`` is present only if units differ."""
        values = asdict(self)
        return values if self.layer_units else {key: values[key] for key in values if key != "layer_units"}


class Run(NamedTuple):
    """A loaded run: the trained model with everything that generation, evaluation and export need.

    Attributes:
        metadata: the metadata of the run.
        recipe: the recipe of the training; "auto" values are replaced by the values that were used.
        tokenizer: the tokenizer with the vocabulary of the run.
        model: the inference model.
    """

    metadata: Metadata
    recipe: recipe.Recipe
    tokenizer: Tokenizer
    model: keras.Sequential

    @property
    def weights(self) -> Weights:
        """The weights of the model for the inference step."""
        return weights_of(self.model)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Encode a prompt, and add the control symbols that the model requires.

        The start symbol is prepended if the prompt is empty or if ``metadata.prompt_start`` is true. ``closed`` appends
        the end symbol of a source.
        """
        start = [self.metadata.start_id] if self.metadata.prompt_start or not prompt else []
        return self.closed(start + [int(token) for token in self.tokenizer.encode(prompt)])

    def closed(self, ids: list[int]) -> list[int]:
        """Append the end symbol of a source to the ids of a prompt, if the model was trained on pairs.

        The ids stay unchanged if they already contain this symbol, or if they contain only the start symbol.
        """
        end = self.metadata.source_end_id
        return ids if end == NONE or end in ids or ids == [self.metadata.start_id] else [*ids, end]


def create(parent: Path, name: str) -> Path:
    """Create an empty folder for a run.

    Args:
        parent: folder of the runs.
        name: name of the run. If a folder with this name exists, a number is appended, as in ``name-2``.

    Returns:
        The new folder.

    Raises:
        UserError: if the name is not valid or the folder cannot be created.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"--name: '{name}' is not a valid folder name; give one word without slashes")
    name = filenames.native(name)
    for number in range(1, 100_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder}: cannot be created ({error.strerror})") from error
    raise UserError(f"{parent / name}: exists, and so do the folders {name}-2 to {name}-99999; give another --name")


def find(name: str | None, parent: Path) -> Path:
    """Return the folder of a run, or of the newest run in ``parent`` if ``name`` is None.

    If ``name`` contains a slash, or is ``.`` or ``..``, it is the path of the folder. Any other name is the name of a
    run in ``parent``, even if the working directory contains a file or a folder with this name.

    Raises:
        UserError: if the run does not exist.
    """
    if name is None:
        return _newest(parent)
    folder = Path(name) if is_path(name) else parent / name
    if name and folder.is_dir():
        atomic.check_inside(folder)
        return folder
    raise UserError(f"{name}: there is no such run; {_hint(name, parent)}")


def is_path(word: str) -> bool:
    """Return True if a command line argument is a path, and False if it is the name of a run."""
    return os.sep in word or word in (os.curdir, os.pardir)


def _hint(name: str, parent: Path) -> str:
    """Return advice for a user who gave the name of a run that does not exist."""
    for path in (Path(name), parent / name):
        around = [folder for folder in path.parents if (folder / RECIPE).is_file()]
        if path.is_file() and around:
            return f"it is a file of a run; name the run: {shell_quoted(around[0])}"
    if name and not is_path(name) and Path(name).is_dir():
        return f"to select the folder in the working directory, type {shell_quoted(Path(name))}"
    known = sorted(folder.name for folder in _runs(parent))
    return f"the nearest is '{recipe.nearest(name, known)}'" if known else "train one with 'keras-lstmgen train'"


def _runs(parent: Path) -> list[Path]:
    """Return the folders of all runs in a folder."""
    return [path.parent for path in parent.glob(f"*/{RECIPE}")]


def _newest(parent: Path) -> Path:
    """Return the folder of the run in ``parent`` whose recipe is newest; raise UserError if there is no run."""
    runs = _runs(parent)
    if not runs:
        raise UserError(f"{parent}: holds no run; train one with 'keras-lstmgen train'")
    newest = max(runs, key=lambda folder: (folder / RECIPE).lstat().st_mtime)
    atomic.check_inside(newest)
    return newest


def save_metadata(folder: Path, metadata: Metadata) -> None:
    """Write ``keras_lstmgen.json``."""
    atomic.write_json(folder / METADATA, metadata.to_json())


def load(folder: Path) -> Run:
    """Load a finished or interrupted run with its best weights so far.

    Raises:
        UserError: if a file is missing or damaged, or if the files belong to different runs.
    """
    if not (folder / MODEL).is_file():
        raise UserError(
            f"{folder}: is not a finished run ({MODEL} is missing); continue with: "
            f"keras-lstmgen train --resume {shell_quoted(folder)}"
        )
    metadata = load_metadata(folder)
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder}: is incomplete, {TOKENIZER} is missing; copy the whole folder of the run")
    words = tokenizer.load(folder / TOKENIZER)
    settings = recipe.parse(metadata.recipe)
    _agree(folder, metadata, words, settings.model)
    model = load_model(folder / MODEL, settings, metadata.vocab_size, metadata.layer_units)
    return Run(metadata, settings, words, model)


def load_metadata(folder: Path) -> Metadata:
    """Read ``keras_lstmgen.json``; raise UserError if the file is damaged or has another format version."""
    path = folder / METADATA
    values = atomic.read_json(path)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: is not metadata of format {FORMAT_VERSION}; export the run again with this version")
    try:
        ids, units = tuple(values["unsampled_ids"]), tuple(values.get("layer_units", ()))
        metadata = _typed(Metadata(**{**values, "unsampled_ids": ids, "layer_units": units}))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); copy it again from where the run was trained") from error
    recipe.parse(metadata.recipe, f"{path}: ")
    return metadata


def _typed(metadata: Metadata) -> Metadata:
    """Return the metadata; raise TypeError with the name of the first value that has a wrong type."""
    for name, kind in get_type_hints(Metadata).items():
        if type(getattr(metadata, name)) is not (get_origin(kind) or kind):
            raise TypeError(f"{name} is {getattr(metadata, name)!r:.60}")
    if not all(type(token) is int for token in metadata.unsampled_ids):
        raise TypeError("unsampled_ids are not all whole numbers")
    if not all(type(units) is int and units > 0 for units in metadata.layer_units):
        raise TypeError("layer_units are not all positive whole numbers")
    return metadata


def load_model(path: Path, settings: recipe.Recipe, V: int, layer_units: tuple[int, ...] = ()) -> keras.Sequential:
    """Build the model of a recipe, and load its weights from a ``.keras`` file.

    The function reads only the weights, not the layers and the code in the file. It builds the model only if the
    number of weights in the file is the number that the recipe requires, because a damaged recipe could describe a
    model that does not fit into memory.

    Args:
        path: the ``.keras`` file.
        settings: the recipe of the run.
        V: vocabulary size.
        layer_units: units of each LSTM layer; empty if all layers have the units of the recipe.

    Returns:
        The inference model.

    Raises:
        UserError: if the file does not contain the weights of this model.
    """
    expected = parameters(settings.model, V, layer_units)
    try:
        if (stored := _stored_numbers(path)) == expected:
            model = build(settings.model, V, layer_units=layer_units)
            model.load_weights(path)
    except Exception as error:  # Keras, zipfile and h5py raise different exceptions for damaged files
        reason = first_line(error)
        raise UserError(
            f"{path}: does not contain the weights of this model ({reason}); copy or train it again"
        ) from error
    if stored != expected:
        raise UserError(
            f"{path}: contains {stored:,} weights, but the model of the recipe has {expected:,}; "
            "copy the whole folder of the run"
        )
    return model


def _stored_numbers(path: Path) -> int:
    """Return the number of values in all weights of a ``.keras`` file.

    Raises:
        ValueError: if weights are compressed or stored in another file.
    """
    sizes: list[int] = []

    def count(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset) and entry.id.get_storage_size() != entry.nbytes:
            raise ValueError(f"{name} is compressed or stored in another file")
        if isinstance(entry, h5py.Dataset) and name.startswith("layers/"):
            sizes.append(int(entry.size))

    with zipfile.ZipFile(path) as archive:
        atomic.check_zip(archive)
        with archive.open("model.weights.h5") as member, h5py.File(member) as weights:
            weights.visititems(count)
    return sum(sizes)


def _agree(folder: Path, metadata: Metadata, words: Tokenizer, settings: recipe.Model) -> None:
    """Raise UserError if the files belong to different runs, or if the model could generate no text."""
    if recipe.AUTO in (settings.units, settings.layers, settings.embedding_size, settings.dropout):
        raise UserError(
            f"{folder / METADATA}: does not contain all sizes of the model; copy the whole folder of the run"
        )
    said = (metadata.vocab_size, metadata.state_size)
    units = metadata.layer_units or (settings.units,) * settings.layers
    if len(units) != settings.layers:
        raise UserError(
            f"{folder / METADATA}: layer_units has {len(units)} entries, but the model of the recipe has "
            f"{settings.layers} layers; copy the whole folder of the run"
        )
    size = settings.members * (2 * sum(units) + memory_size(settings.attention))
    found = (words.vocab_size, size)
    if said != found:
        raise UserError(
            f"{folder}: {METADATA} and {TOKENIZER} are of different runs (V, S: {said} and {found}); "
            "copy the whole folder of the run"
        )
    ids = [metadata.start_id, metadata.end_id, *metadata.unsampled_ids]
    ids += [metadata.source_end_id] if metadata.source_end_id != NONE else []
    if any(not 0 <= token < metadata.vocab_size for token in ids):
        raise UserError(
            f"{folder / METADATA}: contains ids outside the vocabulary of {metadata.vocab_size}; "
            "copy the whole folder of the run"
        )
    try:
        tokenizer.check_writable(words, metadata.unsampled_ids)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
