"""The part of ``export_model`` that needs TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run
from keras_lstmgen.exporters.export_run import Exported, ExportError
from keras_lstmgen.files import atomic
from keras_lstmgen.models import builder, keras_conversion, keras_vocabulary, run_directory
from keras_lstmgen.models.keras_conversion import Stack
from keras_lstmgen.models.run_directory import Metadata, Run
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.tokenizers.listed_vocabulary import NO_SOURCE, Listed
from keras_lstmgen.utils.errors import UserError

MAX_DIFFERENCE = 1e-4  # largest permitted difference of a logit, relative to the largest logit if that is above 1
SHAPE = (3, 33)  # B and T of the ids for the comparison
SMALLEST = 1e-30  # probabilities below are not compared, because their logarithms are not exact


def export(model: Any, vocabulary: Any, settings: recipe.Export, path: Path) -> dict[str, Exported]:
    """Write a run folder for a user's model, and export it. If anything fails, the folder is not written."""
    stack = keras_conversion.read(model)
    listed = keras_vocabulary.read(vocabulary)
    _check_sizes(stack, listed)
    run = _run(stack, listed)
    _check_results(stack, model, run)
    with atomic.replacing(path) as folder:
        folder.mkdir()
        _save(run, folder)
        return _exported(folder, settings, path)


def _exported(folder: Path, settings: recipe.Export, path: Path) -> dict[str, Exported]:
    """Export the run in ``folder``; if a format fails, raise UserError with the reasons."""
    try:
        return export_run.export(folder, settings)
    except ExportError as error:
        reasons = str(error).replace(f"; {export_run.DISCARDED}", "")
        raise UserError(f"{path}: was not written; {reasons}; leave out the formats that fail") from error


def _check_sizes(stack: Stack, listed: Listed) -> None:
    """Raise UserError if the model and the vocabulary have different numbers of ids."""
    count = len(_own_ids(listed))
    embedding, output = stack.embedding, stack.output
    found = {
        f"layer '{embedding.name}' (Embedding) has input_dim={embedding.input_dim}": embedding.input_dim,
        f"layer '{output.name}' (Dense) has units={output.units}": output.units,
    }
    for name, size in found.items():
        if size != count:
            raise UserError(f"vocabulary: has {count} entries, but {name}; give the vocabulary of this model")


def _own_ids(listed: Listed) -> list[int]:
    """Return the ids that the user's model has, which are the first ids of the tokenizer."""
    return sorted({source for source in listed.sources if source != NO_SOURCE})


def _run(stack: Stack, listed: Listed) -> Run:
    """Build the run of a user's model: the inference model with the user's weights, the tokenizer and the metadata."""
    settings, V = _recipe(stack, listed), len(listed.sources)
    units = stack.units if len(set(stack.units)) > 1 else ()
    metadata = Metadata(
        vocab_size=V,
        state_size=2 * sum(stack.units),
        start_id=listed.start_id,
        end_id=listed.tokenizer.end_id,
        prompt_start=False,
        unsampled_ids=listed.unsampled_ids,
        recipe=recipe.to_tables(settings),
        layer_units=units,
    )
    model = builder.build(settings.model, V, layer_units=units)
    model.set_weights(keras_conversion.weights_of(stack, listed.sources))
    return Run(metadata, settings, listed.tokenizer, model)


def _recipe(stack: Stack, listed: Listed) -> recipe.Recipe:
    """Return the recipe that describes the layers of a user's model. Its corpus is not known."""
    values = {
        "corpus.source": ["-"],  # a text that is not available later, as with a run on standard input
        "tokenizer.type": listed.tokenizer.type,
        "tokenizer.vocab_size": len(listed.sources),
        "model.embedding_size": stack.embedding.output_dim,
        "model.units": max(stack.units),
        "model.layers": len(stack.cells),
        "model.dropout": 0.0,
    }
    return recipe.override(recipe.Recipe(), values)


def _check_results(stack: Stack, model: Any, run: Run) -> None:
    """Raise UserError if the inference model does not reproduce the results of the user's model for random ids."""
    V = stack.output.units
    ids = np.random.default_rng(0).integers(V, size=SHAPE, dtype=np.int32)
    expected = np.asarray(keras_conversion.reference(stack, model)(ids, training=False), np.float32)
    found = run.model(ids, training=False).numpy()[..., :V]
    compared = np.ones(found.shape, bool)
    if stack.softmax:
        compared = expected > SMALLEST
        expected, found = np.log(np.maximum(expected, SMALLEST)), tf.nn.log_softmax(found).numpy()
    difference = float(np.max(np.abs(expected - found)[compared], initial=0.0))
    if not difference <= MAX_DIFFERENCE * max(1.0, float(np.max(np.abs(expected)))):
        raise UserError(
            f"model: its logits differ by {difference:.2g} from the logits of the exported layers (allowed: "
            f"{MAX_DIFFERENCE:g}); use only layers of Keras and of keras_lstmgen.layers without changes"
        )


def _save(run: Run, folder: Path) -> None:
    """Write the files of a run."""
    atomic.write_text(folder / run_directory.RECIPE, recipe.to_toml(run.recipe))
    tokenizer.save(run.tokenizer, folder / run_directory.TOKENIZER)
    run_directory.save_metadata(folder, run.metadata)
    run.model.save(folder / run_directory.MODEL)
