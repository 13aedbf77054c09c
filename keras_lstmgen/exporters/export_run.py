"""Export a run: write the artifact of each format, compare its results with Keras, and record the comparison."""

import contextlib
import importlib.metadata
import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import graphs, registry, verify
from keras_lstmgen.exporters.registry import Exporter
from keras_lstmgen.exporters.verify import Proof, Reference
from keras_lstmgen.files import atomic
from keras_lstmgen.models import model_card, run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError, check_not_empty, first_line

RECORD = "export.json"
DISCARDED = "the new artifact is discarded; an earlier one is kept"
# ``export.json`` contains the versions of these packages.
PACKAGES = (
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "sentencepiece",
)


@dataclass(frozen=True)
class Exported:
    """Result of the export of one format.

    Attributes:
        title: name of the format in messages and tables.
        path: path of the artifact, relative to the folder of the run; None if the artifact failed the comparison and
            was discarded.
        size: size of the artifact in bytes; 0 if it was discarded.
        proof: result of the comparison with Keras.
        max_loss_increase: largest permitted increase of the loss over Keras in nats per token, for a format with
            rounded weights; None for the other formats.
    """

    title: str
    path: Path | None
    size: int
    proof: Proof
    max_loss_increase: float | None


class ExportError(UserError):
    """The export of at least one format failed.

    Attributes:
        results: results by the name of the format, for the formats whose artifacts were compared with Keras.
    """

    def __init__(self, message: str, results: dict[str, Exported]) -> None:
        """Create the error."""
        super().__init__(message)
        self.results = results


def export(folder: Path, settings: recipe.Export) -> dict[str, Exported]:
    """Write and verify the artifacts of a run, and record the results in ``export.json``.

    The function discards an artifact that cannot be written, cannot be opened, or differs too much from Keras. In this
    case, the function keeps the artifact and the ``export.json`` entry of an earlier export, and continues with the
    next format.

    Args:
        folder: folder of the run.
        settings: formats to export, and number and length of the texts that are generated for the comparison.

    Returns:
        The result of each format, by the name of the format.

    Raises:
        ExportError: if a format failed. All other formats are exported before the function raises this error.
        UserError: if the settings, the run or ``export.json`` are not valid. In this case, nothing is written.
    """
    _check(settings)
    exporters = {name: _exporter(name) for name in settings.formats}
    with tf.device("CPU:0"):  # a graph that was traced for a GPU may not run without a GPU
        results, failures = _export_all(exporters, folder, settings)
    if failures:
        raise ExportError("; ".join(failures), results)
    return results


def hide_gpus() -> None:
    """Hide all GPUs from this process, so that an export uses no GPU memory.

    TensorFlow cannot hide a GPU that it has already used. In this case, the GPUs stay visible, and an export still
    works.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def _check(settings: recipe.Export) -> None:
    """Raise UserError if a setting is out of range.

    Settings of a recipe or the command line are already checked. This check is for callers from Python.
    """
    recipe.override(recipe.Recipe(), {f"export.{name}": value for name, value in asdict(settings).items()})
    check_not_empty("--format", settings.formats)


def _exporter(name: str) -> Exporter:
    """Return the exporter of a format. Tests replace this function to test other exporters."""
    return registry.exporter(name)


def _export_all(
    exporters: dict[str, Exporter], folder: Path, settings: recipe.Export
) -> tuple[dict[str, Exported], list[str]]:
    """Export one format after another; return the results by format, and one message per failure."""
    run, record = run_directory.load(folder), _read_record(folder / RECORD)
    graphs.check_weights(run)
    atomic.check_writable(folder)
    with reporter.status(f"Keras generates {settings.texts} texts of {settings.tokens} tokens"):
        reference = verify.compute_reference(run, settings.texts, settings.tokens)
    job = _Job(run, folder, reference, record)
    results: dict[str, Exported] = {}
    failures: list[str] = []
    for name, exporter in exporters.items():
        try:
            results[name] = job.export(name, exporter)
            failures += [f"{exporter.title}: {reason}; {DISCARDED}" for reason in results[name].proof.reasons]
        except UserError as error:
            failures.append(str(error))
    if any(not result.proof.reasons for result in results.values()):
        _complete_model_card(folder)
    return results, failures


def _complete_model_card(folder: Path) -> None:
    """Add the artifacts to the model card of a run. A card that cannot be written does not end the export."""
    try:
        model_card.write(folder)
    except UserError as error:
        reporter.message(str(error))


@dataclass(frozen=True)
class _Job:
    """The export of one run, with the data that the exports of all formats use."""

    run: Run
    folder: Path
    reference: Reference
    record: dict[str, Any]  # content of ``export.json``

    def export(self, name: str, exporter: Exporter) -> Exported:
        """Write an artifact to a temporary folder, and move it into the run folder if it passes the comparison."""
        with atomic.temporary_folder(self.folder) as temporary, atomic.plain_path(temporary) as place:
            with reporter.status(f"{exporter.title}: converting") as update:
                _write(exporter, self.run, place)
                update(f"{exporter.title}: generating the same texts")
                proof = _prove(exporter, self.run, place, self.reference)
            if proof.reasons:
                return Exported(exporter.title, None, 0, proof, exporter.max_loss_increase)
            self._replace(name, exporter, place)
            size = exporter.size(self.folder)
            self._save_record(name, {"path": str(exporter.path), "bytes": size, **asdict(proof)})
        return Exported(exporter.title, exporter.path, size, proof, exporter.max_loss_increase)

    def _replace(self, name: str, exporter: Exporter, place: Path) -> None:
        """Replace the artifact of an earlier export by the artifact in the temporary folder ``place``.

        The method first removes the entry of the earlier artifact from ``export.json``. If the process is killed before
        it adds the new entry, ``export.json`` contains no entry for this format, and not a wrong entry.
        """
        earlier = self.record["artifacts"].get(name)
        self._save_record(name, None)
        try:
            atomic.move_into_place(place / exporter.path, self.folder / exporter.path)
        except UserError:
            self._save_record(name, earlier)
            raise

    def _save_record(self, name: str, entry: dict[str, Any] | None) -> None:
        """Write ``export.json`` with a new entry for a format; if ``entry`` is None, remove the entry of the format."""
        self.record["artifacts"].pop(name, None)
        if entry:
            self.record["artifacts"][name] = entry
        self.record["versions"] = _versions()
        atomic.write_json(self.folder / RECORD, self.record)


def _write(exporter: Exporter, run: Run, folder: Path) -> None:
    """Write the artifact of one format; raise UserError if the conversion fails."""
    try:
        with captured_stderr(), contextlib.redirect_stdout(io.StringIO()):  # hides the output of the converters
            exporter.write(run, folder)
    except UserError:
        raise
    except Exception as error:  # each converter raises its own exceptions
        raise UserError(f"{exporter.title}: cannot be converted ({first_line(error)}); nothing was written") from error


def _prove(exporter: Exporter, run: Run, folder: Path, reference: Reference) -> Proof:
    """Compare an artifact with Keras; if the artifact cannot be run, return a failed proof that contains the reason."""
    try:
        return _compare(exporter, run, folder, reference)
    except Exception as error:  # each runtime raises its own exceptions for models that it cannot run
        if isinstance(error, OSError) and error.errno:  # the artifact is not the cause, but, for example, a full disk
            raise UserError(f"{exporter.title}: the check failed ({error.strerror}); {DISCARDED}") from error
        return Proof(None, 0, len(reference.cases), 0.0, (f"cannot be run ({first_line(error)})",))


def _compare(exporter: Exporter, run: Run, folder: Path, reference: Reference) -> Proof:
    """Open an artifact and compare it with Keras by the rules of its format."""
    with captured_stderr():
        call = exporter.open_artifact(folder)
        if exporter.max_loss_increase is not None:
            second = exporter.open_artifact(folder)
            return verify.verify_quantized(run, reference, call, second, exporter.max_loss_increase)
        proof = verify.verify(run, reference, call)
        if not exporter.string_signatures:
            return proof
        return replace(proof, reasons=proof.reasons + verify.reasons_in_strings(run, reference, call))


def _read_record(path: Path) -> dict[str, Any]:
    """Return the content of ``export.json``, or an empty record if the file does not exist."""
    record = atomic.read_json(path) if path.is_file() else {"artifacts": {}}
    if not isinstance(record, dict) or not isinstance(record.get("artifacts"), dict):
        raise UserError(f"{path}: is damaged; delete it and export all formats again")
    return record


def _versions() -> dict[str, str]:
    """Return the versions of all packages in ``PACKAGES`` that are installed, by name."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
