"""Export: declare a contract, convert, replay in the foreign runtime, record. One file a format."""

import contextlib
import importlib
import importlib.metadata
import io
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from keras_lstmgen.cli import console
from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import graphs, verify
from keras_lstmgen.exporters.verify import Proof, Trial
from keras_lstmgen.files import atomic
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError, check_not_empty, first_line

RECORD = "export.json"
KEPT = "it is discarded, and what was there before is kept"
NAMES = {
    "saved_model": "SavedModel",
    "tflite": "TFLite",
    "tflite_float16": "TFLite float16",
    "tflite_int8": "TFLite int8",
    "onnx": "ONNX",
    "web": "Web page",
}
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


def export(folder: Path, settings: recipe.Export) -> dict[str, Proof]:
    """Write and verify the artifacts of a run. The proofs stand in ``export.json``.

    An artifact that cannot be written, cannot be tried, or fails its proof is discarded. The artifact of an earlier
    export and its entry in ``export.json`` then stay as they were. The failures are one UserError, raised after the
    last format.
    """
    _check(settings)
    modules = {name: _module(name) for name in settings.formats}
    with tf.device("CPU:0"):  # what is traced beside a GPU may not run without one
        proofs, failures = _export_all(modules, folder, settings)
    _print(folder, modules, proofs)
    if failures:
        raise UserError("; ".join(failures))
    return proofs


def hide_gpus() -> None:
    """Hide the GPUs from this process, so that an export takes none of their memory; for a process that only exports.

    TensorFlow refuses where it has used a GPU already. An export does not depend on it.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def _export_all(
    modules: dict[str, ModuleType], folder: Path, settings: recipe.Export
) -> tuple[dict[str, Proof], list[str]]:
    """Export one format after another; return the proofs of those that were tried, and what went wrong."""
    model, record = run_directory.load(folder), _read_record(folder / RECORD)
    graphs.check_weights(model)
    atomic.check_writable(folder)
    with reporter.status(f"Keras writes {settings.texts} texts of {settings.tokens} tokens"):
        tried = verify.trial(model, settings.texts, settings.tokens)
    proofs: dict[str, Proof] = {}
    failures: list[str] = []
    for name, module in modules.items():
        try:
            proofs[name] = _export_one(name, module, model, folder, tried, record)
            failures += [f"{NAMES[name]}: {reason}; {KEPT}" for reason in proofs[name].reasons]
        except UserError as error:
            failures.append(str(error))
    return proofs, failures


def _check(settings: recipe.Export) -> None:
    """Refuse values out of range; a recipe from a file or the command line has been checked before."""
    recipe.override(recipe.Recipe(), {f"export.{name}": value for name, value in asdict(settings).items()})
    check_not_empty("--format", settings.formats)


def _module(name: str) -> ModuleType:
    """The module of a format; its converter and runtime are an extra."""
    try:
        return importlib.import_module(f"keras_lstmgen.exporters.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format {name}: {error.name} is not installed; pip install 'keras_lstmgen[export]'"
        ) from error


def _export_one(name: str, module: ModuleType, model: Run, folder: Path, tried: Trial, record: dict[str, Any]) -> Proof:
    """Write one format to a temporary folder, prove it, and only then move it to its place and record the proof."""
    with atomic.temporary_folder(folder) as aside, atomic.plain_path(aside) as place:
        with reporter.status(f"{NAMES[name]}: converting") as show:
            _write(name, module, model, place)
            show(f"{NAMES[name]}: writing the same texts")
            proof = _prove(name, module, model, place, tried)
        if not proof.reasons:
            _replace(name, module, folder, record, place)
            entry = {"path": str(module.PLACE), "bytes": module.size(folder), **asdict(proof)}
            _keep(folder, record, name, entry)
    return proof


def _replace(name: str, module: ModuleType, folder: Path, record: dict[str, Any], place: Path) -> None:
    """Move an artifact to its place. In between the record has no entry for it, so that no entry names another one."""
    before = record["artifacts"].get(name)
    _keep(folder, record, name, None)
    try:
        atomic.move_into_place(place / module.PLACE, folder / module.PLACE)
    except UserError:
        _keep(folder, record, name, before)
        raise


def _write(name: str, module: ModuleType, model: Run, folder: Path) -> None:
    """Write one format, whole or not at all."""
    try:
        with captured_stderr(), contextlib.redirect_stdout(io.StringIO()):  # the converters talk
            module.write(model, folder)
    except UserError:
        raise
    except Exception as error:  # every converter has its own
        raise UserError(f"{NAMES[name]}: cannot be converted ({first_line(error)}); nothing was written") from error


def _prove(name: str, module: ModuleType, model: Run, folder: Path, tried: Trial) -> Proof:
    """Try an artifact."""
    try:
        return _verified(name, module, model, folder, tried)
    except Exception as error:  # every runtime has its own for what it cannot run
        if isinstance(error, OSError) and error.errno:  # the system's, not the artifact's: a disk that is full
            raise UserError(f"{NAMES[name]}: could not be tried ({error.strerror}); what was there is kept") from error
        return Proof(None, 0, len(tried.cases), 0.0, (f"cannot be run ({first_line(error)})",))


def _verified(name: str, module: ModuleType, model: Run, folder: Path, tried: Trial) -> Proof:
    """Open an artifact and try it by what its format promises."""
    with captured_stderr():
        call = module.open_artifact(folder)
        if _largest_loss(module) is None:
            proof = verify.verify(model, tried, call)
            more = verify.reasons_in_strings(model, tried, call) if name == "saved_model" else ()
            return replace(proof, reasons=proof.reasons + more)
        return verify.verify_quantized(model, tried, call, module.open_artifact(folder), _largest_loss(module))


def _largest_loss(module: ModuleType) -> Any:
    """What a format whose weights are rounded promises instead of the texts of Keras; None for the others."""
    return getattr(module, "LARGEST_LOSS", None)


def _read_record(path: Path) -> dict[str, Any]:
    """What ``export.json`` says so far: formats exported before and not now keep their entry."""
    record = atomic.read_json(path) if path.is_file() else {"artifacts": {}}
    if not isinstance(record, dict) or not isinstance(record.get("artifacts"), dict):
        raise UserError(f"{path}: is damaged; delete it and export all formats again")
    return record


def _keep(folder: Path, record: dict[str, Any], name: str, entry: dict[str, Any] | None) -> None:
    """Write ``export.json`` with the new entry of a format, or without the old one."""
    record["artifacts"].pop(name, None)
    if entry:
        record["artifacts"][name] = entry
    record["versions"] = {package: version for package in PACKAGES if (version := _version(package))}
    atomic.write_json(folder / RECORD, record)


def _version(package: str) -> str | None:
    """The version of a package; a converter that is not needed need not be installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print(folder: Path, modules: dict[str, ModuleType], proofs: dict[str, Proof]) -> None:
    """The table of proofs."""
    columns = ("format", "file", "size", "largest logit difference", "loss", "texts identical", "tokens/s")
    rows = [
        (
            NAMES[name],
            modules[name].PLACE if not proof.reasons else "discarded",
            f"{modules[name].size(folder) / 1e6:.2f} MB" if not proof.reasons else "",
            "no number" if proof.difference is None else f"{proof.difference:.1e}",
            "" if proof.loss_difference is None else f"{proof.loss_difference:+.4f} nats",
            f"{proof.identical} of {proof.tried}",
            f"{proof.tokens_per_second:,.0f}",
        )
        for name, proof in proofs.items()
    ]
    console.table(f"{folder}: what each artifact writes, against Keras", columns, rows)
    for name in proofs:
        if (largest := _largest_loss(modules[name])) is not None:
            console.out.print(
                f"{NAMES[name]} does not promise the texts of the others: its promise is a loss within "
                f"{largest:g} nats a token of Keras's, and the same text each time from the same seed."
            )
