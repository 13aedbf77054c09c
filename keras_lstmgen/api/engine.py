"""The part of the Python API that needs TensorFlow: load, train, evaluate and export runs."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from keras_lstmgen.api import corpus_files, generation_options, recipe_arguments, verbose
from keras_lstmgen.api.corpus_files import Texts
from keras_lstmgen.api.generation_options import Plan
from keras_lstmgen.api.loaded_model import LoadedModel
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.data import prepared_corpus, splits
from keras_lstmgen.evaluation import report
from keras_lstmgen.exporters import export_run, graphs
from keras_lstmgen.exporters.export_run import Exported, ExportError
from keras_lstmgen.interpret import inspect_run, inspection_files
from keras_lstmgen.interpret.inspect_run import InspectOptions
from keras_lstmgen.models import continuation, run_directory
from keras_lstmgen.system import environment
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError, check_not_empty, check_range

NAME = "run"  # folder name of a run in a temporary folder
OF_FIRST_TRAINING = ("training.learning_rate", "training.warmup")  # a continued training has its own values


@dataclass(frozen=True)
class FitRequest:
    """The arguments of ``TextGenerator.fit``.

    Attributes:
        texts: the texts.
        values: recipe fields by dotted name that the user has set.
        callbacks: Keras callbacks.
        verbose: 0 or 1.
        start: folder of the run from whose weights the training starts; None for random weights.
    """

    texts: Texts
    values: Mapping[str, Any]
    callbacks: Sequence[keras.callbacks.Callback] = ()
    verbose: int = 0
    start: Path | None = None


def load(folder: Path) -> LoadedModel:
    """Load a run, and check that all weights are finite."""
    _check_dtype()
    run = run_directory.load(folder)
    try:
        graphs.check_weights(run)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    return LoadedModel(run)


def _check_dtype() -> None:
    """Raise UserError if the default dtype of Keras, in which models are built, is not float32."""
    if (policy := keras.config.dtype_policy().name) != "float32":
        raise UserError(f"keras.config: the dtype policy is {policy}; keras_lstmgen needs float32")


def plan(model: LoadedModel, options: Mapping[str, Any]) -> Plan:
    """Check the options of ``generate`` for a model."""
    checked = generation_options.plan(generation_options.parse(options))
    model.check(checked)
    return checked


def fit(request: FitRequest, folder: Path) -> keras.callbacks.History:
    """Train a run in the subfolder ``NAME`` of a folder.

    Args:
        request: the texts and the settings.
        folder: an empty folder for the texts and the run.

    Returns:
        The losses after each epoch.
    """
    _check_dtype()
    environment.check_limits()
    verbose.check(request.verbose)
    _check_callbacks(request.callbacks)
    settings = _settings(request, folder)
    effects.check(prepared_corpus.with_prepared_tables(settings), request.values, "")
    display = verbose.progress_bar if request.verbose else None
    with verbose.reports(request.verbose):
        result = trainer.train(settings, folder, NAME, display=display, callbacks=request.callbacks)
    return _history(result.summary.history if result.summary else [])


def _settings(request: FitRequest, folder: Path) -> Recipe:
    """Return the recipe of a training, and write its texts to a folder."""
    if request.start is None:
        corpus = corpus_files.training_corpus(request.texts, folder, request.values)
        return recipe.override(Recipe(), {**request.values, **corpus})
    base = continuation.defaults(request.start)
    source = corpus_files.evaluation_texts(request.texts, folder, base.corpus)
    values = {name: value for name, value in request.values.items() if name not in OF_FIRST_TRAINING}
    return recipe.override(base, {**values, "corpus.source": source})


def is_trained(folder: Path) -> bool:
    """Return whether the folder of a run contains weights that ``load`` can read."""
    return (folder / run_directory.MODEL).is_file()


def _check_callbacks(callbacks: Any) -> None:
    """Raise UserError if an entry of ``callbacks`` is not a Keras callback."""
    if not isinstance(callbacks, list | tuple):
        raise UserError(f"callbacks: {type(callbacks).__name__} is not a list of Keras callbacks")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise UserError(f"callbacks: {callback!r:.60} is not an instance of keras.callbacks.Callback")


def _history(rows: Iterable[Mapping[str, float]]) -> keras.callbacks.History:
    """Return the rows of ``history.json`` as a Keras history."""
    history, table = keras.callbacks.History(), list(rows)
    history.epoch = list(range(len(table)))
    history.history = {name: [row[name] for row in table] for name in ("loss", "val_loss", "seconds")}
    return history


@dataclass(frozen=True)
class EvaluateRequest:
    """The arguments of ``TextGenerator.evaluate``.

    Attributes:
        texts: the texts; None for the held-out text of the run.
        samples: number of samples.
        sample_tokens: maximum number of tokens of a sample.
        values: fields of the table ``evaluate`` of the recipe, by dotted name.
        verbose: 0 or 1.
    """

    texts: Texts | None
    samples: int
    sample_tokens: int
    values: Mapping[str, Any]
    verbose: int = 0


def evaluate(model: LoadedModel, request: EvaluateRequest) -> dict[str, Any]:
    """Return the report of ``keras-lstmgen evaluate --json``."""
    for name, low in (("samples", 0), ("sample_tokens", 1)):
        number = recipe_arguments.whole_number(name, getattr(request, name))
        check_range(f"--{name.replace('_', '-')}", number, low)
    run = model.run
    settings = recipe.override(run.recipe, request.values)
    effects.check(settings, request.values, "")
    effects.check_samples(request, settings.evaluate)
    with tempfile.TemporaryDirectory() as folder, verbose.reports(request.verbose):
        texts = request.texts
        names = [] if texts is None else corpus_files.evaluation_texts(texts, Path(folder), run.recipe.corpus)
        result = report.evaluate(run, names, request.samples, request.sample_tokens, settings.evaluate)
        is_named = not names or not names[0].startswith(folder)
    return result if is_named else {**result, "text": "texts"}


@dataclass(frozen=True)
class InspectRequest:
    """The arguments of ``TextGenerator.inspect``.

    Attributes:
        prompt: the text that the model reads.
        texts: the texts in which features are searched; None for the held-out text of the run.
        layer: number of the layer, from 1; None for the last layer.
        cell: number of the cell; None for the cell with the best score.
    """

    prompt: str
    texts: Texts | None
    layer: int | None
    cell: int | None


def inspect(model: LoadedModel, request: InspectRequest, folder: Path) -> list[Path]:
    """Draw the gates and cells of a layer, and return the paths of the pictures and of the HTML page."""
    if not isinstance(request.prompt, str):
        raise UserError(f"prompt: {request.prompt!r:.60} is not a string")
    given = {"layer": request.layer, "cell": request.cell}
    layer, cell = (None if n is None else recipe_arguments.whole_number(name, n) for name, n in given.items())
    prompt = splits.normalized_prompt(request.prompt, model.run.recipe.corpus)
    with tempfile.TemporaryDirectory() as place:
        texts = request.texts
        names = [] if texts is None else corpus_files.evaluation_texts(texts, Path(place), model.run.recipe.corpus)
        inspection = inspect_run.inspect(model.run, InspectOptions(prompt, layer=layer, cell=cell, text=names))
    inspection_files.write(inspection, folder)
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".html"))


def export_settings(model: LoadedModel, values: Mapping[str, Any], show: int) -> recipe.Export:
    """Check the arguments of ``TextGenerator.export`` and return the settings of the export.

    Args:
        model: the model to export.
        values: fields of the table ``export`` of the recipe, by dotted name.
        show: 0, or 1 to print messages.
    """
    verbose.check(show)
    settings = recipe.override(model.run.recipe, values).export
    check_not_empty("formats", settings.formats)
    return settings


def export(folder: Path, settings: recipe.Export, show: int) -> dict[str, Exported]:
    """Export a run, and return the result of each format with the path of its artifact.

    Args:
        folder: folder of the run.
        settings: settings of the export.
        show: 0, or 1 to print messages.
    """
    with verbose.reports(show):
        try:
            results = export_run.export(folder, settings)
        except ExportError as error:
            raise ExportError(str(error), _with_paths(folder, error.results)) from error
    return _with_paths(folder, results)


def _with_paths(folder: Path, results: Mapping[str, Exported]) -> dict[str, Exported]:
    """Return results whose paths begin with the folder of the run."""
    return {name: replace(result, path=result.path and folder / result.path) for name, result in results.items()}
