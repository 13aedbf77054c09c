"""``export_model``: export a Keras model that this package did not train."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from keras_lstmgen.config import recipe
from keras_lstmgen.system import lazy_import
from keras_lstmgen.utils.errors import UserError

if TYPE_CHECKING:
    from keras_lstmgen.exporters.export_run import Exported

_DEFAULTS = recipe.Export()


def export_model(
    model: Any,
    vocabulary: Any,
    path: str | Path,
    formats: Sequence[str] = _DEFAULTS.formats,
    *,
    texts: int = _DEFAULTS.texts,
    tokens: int = _DEFAULTS.tokens,
) -> "dict[str, Exported]":
    """Export your own Keras model, and verify that each artifact generates the same texts as Keras.

    The function writes a run folder, which also contains the weights for Keras. The commands and clients accept this
    folder like any other run, except for ``train --resume``. The page ``docs/own-model.md`` has complete examples.

    Args:
        model: a ``keras.Sequential`` or a linear functional model of Embedding, LSTM layers (of Keras or of
            ``keras_lstmgen.layers``), dropout layers, and Dense with or without softmax. The model maps ids [B, T] to
            logits or probabilities [B, T, V].
        vocabulary: the strings of the V ids: a ``keras_lstmgen.Tokenizer``, a list of strings in the order of their
            ids, or a ``keras.layers.StringLookup`` or ``keras.layers.TextVectorization`` layer.
        path: the folder to create. It must not exist, or must be empty.
        formats: names of the formats: saved_model, tflite, tflite_float16, tflite_int8, onnx, web.
        texts: number of texts that Keras and each artifact generate for the comparison.
        tokens: length of these texts in tokens.

    Returns:
        The result of each format, by name: path and size of the artifact, and the comparison with Keras.

    Raises:
        UserError: if an argument is not valid, if a layer of the model is not supported, or if an artifact differs from
            Keras. In these cases, no folder is written.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"path: is {path!r:.60}; give the path of a new folder")
    place = Path(path)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        kind = "a folder with files" if place.is_dir() else "a file"
        raise UserError(f"{place}: is {kind}; give the path of a new folder, or remove it first")
    values = {"export.formats": formats, "export.texts": texts, "export.tokens": tokens}
    settings = recipe.override(recipe.Recipe(), values).export
    results: dict[str, Exported] = _engine().export(model, vocabulary, settings, place)
    return results


def _engine() -> ModuleType:
    """Import the part of this function that needs TensorFlow."""
    return lazy_import.import_module("keras_lstmgen.api.own_model_engine")
