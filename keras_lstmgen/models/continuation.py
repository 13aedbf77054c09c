"""Start a training from the weights, the vocabulary and the sizes of another run (``train --init-from``)."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.files import filenames
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.run_directory import Metadata
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError

# Fields that the weights or the token ids depend on.
FIXED = (
    "tokenizer.type", "tokenizer.vocab_size", "model.embedding_size", "model.units", "model.layers", "model.attention",
    "model.copy", "model.members", "model.tied",
)  # fmt: skip
# The learning rate rises for longer than in a training from random weights, so that the first updates do not destroy
# the weights. Its peak is that of the run: lower peaks gave higher losses on the new text
# (benchmarks/results/continuation.md).
WARMUP = 0.1


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary with which a training must begin.

    Attributes:
        tokenizer: the tokenizer.
        unsampled_ids: ids that the weights have never been trained to generate.
    """

    tokenizer: Tokenizer
    unsampled_ids: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a value that JSON can represent."""
        return {"model": base64.b64encode(self.tokenizer.model).decode(), "unsampled_ids": list(self.unsampled_ids)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Vocabulary":
        """Return the vocabulary from the result of ``to_json``."""
        return Vocabulary(Tokenizer(base64.b64decode(value["model"])), tuple(value["unsampled_ids"]))


def stored_path(folder: Path) -> str:
    """Return the value of ``training.init_from`` for the folder of a run. It is valid in every working directory."""
    return filenames.stored(filenames.of_argument(str(folder.absolute())))


def origin(settings: Recipe) -> Path:
    """Return the folder of the run from which a training starts."""
    return Path(filenames.native(settings.training.init_from))


def vocabulary_of(folder: Path) -> Vocabulary:
    """Load the vocabulary of a run."""
    words = tokenizer.load(folder / run_directory.TOKENIZER)
    return Vocabulary(words, run_directory.load_metadata(folder).unsampled_ids)


def defaults(folder: Path) -> Recipe:
    """Return the recipe with which a training on a new text starts from the weights of a run.

    To continue a run on a new text, override ``corpus.source`` and other fields of this recipe, and call
    ``trainer.train`` with the result. ``train --init-from`` and ``TextGenerator.fit`` of a loaded generator do this::

        settings = recipe.override(continuation.defaults(folder), {"corpus.source": "new.txt"})
        trainer.train(settings, runs, "my_run")

    The vocabulary, the model, the kind of documents, the window and the weight of the source in the loss have the
    values of the run. The learning rate is that of the run too, with a warm-up of ``WARMUP``. All other fields have
    their default values.

    Args:
        folder: folder of the run.

    Raises:
        UserError: if the folder is not a run, or if the run has no trained weights.
    """
    old = recipe.parse(_metadata(folder).recipe)
    corpus = recipe.Corpus(documents=old.corpus.documents, field=old.corpus.field, normalize=old.corpus.normalize)
    training = recipe.Training(
        init_from=stored_path(folder),
        window=old.training.window,
        source_loss=old.training.source_loss,
        sampled_softmax=old.training.sampled_softmax,
        learning_rate=old.training.learning_rate,
        warmup=WARMUP,
    )
    return Recipe(corpus=corpus, tokenizer=old.tokenizer, model=old.model, training=training)


def _metadata(folder: Path) -> Metadata:
    """Return the metadata of a run with trained weights."""
    if not (folder / run_directory.METADATA).is_file():
        raise UserError(f"--init-from {folder}: is not a run ({run_directory.METADATA} is missing); name another run")
    if not (folder / run_directory.MODEL).is_file():
        raise UserError(
            f"--init-from {folder}: has no trained weights ({run_directory.MODEL} is missing); train it first"
        )
    return run_directory.load_metadata(folder)


def completed(settings: Recipe, folder: Path) -> Recipe:
    """Check that a recipe fits the run from which the training starts, and return it with the sizes of the run.

    Args:
        settings: the recipe of the new training. Sizes that are "auto" get the values of the run.
        folder: folder of the run from which the training starts.

    Raises:
        UserError: if the recipe contradicts the vocabulary or the model of the run, or if only one of the two trainings
            is on pairs.
    """
    old = recipe.parse(_metadata(folder).recipe)
    before, values = recipe.to_tables(old), recipe.to_tables(settings)
    for name in FIXED:
        table, key = name.split(".")
        if values[table][key] not in (before[table][key], recipe.AUTO_WORD):
            raise UserError(
                f"--{name}: {values[table][key]} differs from {before[table][key]} in {folder}, from which "
                f"the training starts; leave out {name}"
            )
    if old.corpus.is_pairs != settings.corpus.is_pairs:
        kinds = {True: "pairs", False: "texts without a source"}
        raise UserError(
            f"--init-from {folder}: was trained on {kinds[old.corpus.is_pairs]}, but the new corpus has "
            f"{kinds[settings.corpus.is_pairs]}; give --corpus.documents, --corpus.field or --corpus.labels accordingly"
        )
    sizes = {name.split(".")[1]: before["model"][name.split(".")[1]] for name in FIXED if name.startswith("model.")}
    return replace(settings, model=replace(settings.model, **sizes))
