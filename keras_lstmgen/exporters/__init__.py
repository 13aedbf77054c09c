"""Export: declare a contract, convert, replay in the foreign runtime, record. One file a format."""

import contextlib
import importlib
import importlib.metadata
import io
import shutil
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from keras_lstmgen import files, recipe, run, show
from keras_lstmgen.errors import UserError
from keras_lstmgen.exporters import contract, verify
from keras_lstmgen.exporters.verify import Proof, Trial
from keras_lstmgen.quiet import quiet
from keras_lstmgen.run import Run

NAMES = {"saved_model": "SavedModel", "tflite": "TFLite", "onnx": "ONNX"}
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
    """Write and verify the artifacts of a run; one that fails is deleted. The proofs stand in ``export.json``."""
    tf.config.set_visible_devices([], "GPU")  # what is traced beside a GPU may not run without one
    model = run.load(folder)
    contract.check_weights(model)
    modules = {name: _module(name) for name in settings.formats}
    with show.out.status(f"Keras writes {settings.texts} texts of {settings.tokens} tokens"):
        tried = verify.trial(model, settings.texts, settings.tokens)
    proofs = {name: _export_one(name, module, model, folder, tried) for name, module in modules.items()}
    _record(folder, modules, proofs)
    _print(folder, modules, proofs)
    failed = {name: proof for name, proof in proofs.items() if proof.reasons}
    if failed:
        raise UserError(
            "; ".join(f"{NAMES[name]}: {', '.join(proof.reasons)}; deleted" for name, proof in failed.items())
        )
    return proofs


def _module(name: str) -> ModuleType:
    """The module of a format; its converter and runtime are an extra."""
    try:
        return importlib.import_module(f"keras_lstmgen.exporters.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format {name}: {error.name} is not installed; pip install 'keras_lstmgen[export]'"
        ) from error


def _export_one(name: str, module: ModuleType, model: Run, folder: Path, tried: Trial) -> Proof:
    with show.out.status(f"{NAMES[name]}: converting") as status:
        try:
            with quiet(), contextlib.redirect_stdout(io.StringIO()):  # the converters talk
                module.write(model, folder)
                call = module.open_artifact(folder)
            status.update(f"{NAMES[name]}: writing the same texts")
            proof = verify.verify(model, tried, call, single_row=name == "tflite")
        except BaseException:
            _delete(folder / module.PLACE)
            raise
    if proof.reasons:
        _delete(folder / module.PLACE)
    return proof


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _record(folder: Path, modules: dict[str, ModuleType], proofs: dict[str, Proof]) -> None:
    """Write ``export.json``; formats exported before and not now keep their entry."""
    path = folder / "export.json"
    record: dict[str, Any] = files.read_json(path) if path.is_file() else {"artifacts": {}}
    record["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name, proof in proofs.items():
        place, kept = str(modules[name].PLACE), not proof.reasons
        size = modules[name].size(folder) if kept else 0
        record["artifacts"][name] = {"path": place if kept else None, "bytes": size, **asdict(proof)}
    files.write_json(path, record)


def _print(folder: Path, modules: dict[str, ModuleType], proofs: dict[str, Proof]) -> None:
    """The table of proofs."""
    columns = ("format", "file", "size", "largest logit difference", "texts identical", "tokens/s")
    rows = [
        (
            NAMES[name],
            modules[name].PLACE if not proof.reasons else "deleted",
            f"{modules[name].size(folder) / 1e6:.2f} MB" if not proof.reasons else "",
            f"{proof.difference:.1e}",
            f"{proof.identical} of {proof.tried}",
            f"{proof.tokens_per_second:,.0f}",
        )
        for name, proof in proofs.items()
    ]
    show.table(f"{folder}: what each artifact writes, against Keras", columns, rows)
