"""Measure a continued training: the loss on the new text and on the text of the first run, before and after."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, prepared_corpus, sources
from keras_lstmgen.data.example_batches import Examples
from keras_lstmgen.data.token_cache import encode_split
from keras_lstmgen.evaluation.likelihood import ignore_progress
from keras_lstmgen.models import continuation, run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.training.callbacks import validation
from keras_lstmgen.training.input_pipeline import TrainingData, max_scored_tokens
from keras_lstmgen.utils.errors import UserError

KEY = "continuation"  # key of the losses in the metrics of a run


class HeldOut(NamedTuple):
    """A held-out text.

    Attributes:
        ids: the ids of the text, integer [N].
        examples: the documents or pairs of the text. None if the model reads the text as continuous text.
    """

    ids: NDArray[np.integer]
    examples: Examples | None


def losses_before(data: TrainingData, origin: Run) -> dict[str, Any]:
    """Measure the losses of the first run on both held-out texts.

    Args:
        data: the data of the continued training.
        origin: the run from which the training starts.

    Returns:
        Losses in nats per token: ``{"run": NAME, "new": {"before": X}, "old": {"before": Y}}``. ``old`` is None if the
        text of the first run is not available.
    """
    folder = continuation.origin(data.recipe)
    with reporter.status(f"measuring the loss of {folder.name} on both held-out texts"):
        new = _loss(origin, HeldOut(data.held_out_ids, data.validation_examples))
        text = _old_text(origin.recipe, origin.tokenizer)
        old = None if text is None else {"before": _loss(origin, text)}
    return {"run": folder.name, "new": {"before": new}, "old": old}


def losses_after(before: dict[str, Any], folder: Path, run: Run, best_loss: float) -> dict[str, Any]:
    """Add the losses of the trained weights to the losses of the first run.

    Args:
        before: result of ``losses_before``.
        folder: folder of the continued run.
        run: the continued run. The losses are those of its best weights, not of ``run.model``.
        best_loss: lowest loss on the new held-out text, in nats per token.

    Returns:
        The losses, with the additional keys ``after``. ``old`` is None if the text of the first run is not available.
    """
    losses = before | {"new": {**before["new"], "after": best_loss}}
    text = _old_text_of(continuation.origin(run.recipe), run.tokenizer) if before["old"] else None
    if text is None:
        return losses | {"old": None}
    with reporter.status("measuring the loss on the earlier held-out text"):
        model = run_directory.load_model(folder / run_directory.MODEL, run.recipe, run.metadata.vocab_size)
        return losses | {"old": {**before["old"], "after": _loss(run._replace(model=model), text)}}


def _loss(run: Run, text: HeldOut) -> float:
    """Return the loss of a run on a held-out text, in nats per token."""
    return validation.text_loss(run, text.ids, text.examples)(ignore_progress)


def _old_text_of(folder: Path, words: Tokenizer) -> HeldOut | None:
    """Return the held-out text of a run, or None if the run or its text is not available."""
    try:
        return _old_text(recipe.parse(run_directory.load_metadata(folder).recipe), words)
    except UserError:
        return None


def _old_text(settings: recipe.Recipe, words: Tokenizer) -> HeldOut | None:
    """Return the held-out text of a recipe, or None if the corpus is not available without a download."""
    try:
        ids = _held_out_ids(settings.corpus, words)
    except UserError as error:
        reporter.message(f"The loss on the earlier text is not measured: {error}")
        return None
    ids = ids[: max_scored_tokens(words.vocab_size)]
    examples = None if settings.carries else example_batches.find_examples(ids, settings.corpus.is_pairs)
    return HeldOut(ids, examples)


def _held_out_ids(corpus: recipe.Corpus, words: Tokenizer) -> NDArray[np.integer]:
    """Return the ids of the validation split of a corpus.

    Raises:
        UserError: if the corpus is not available.
    """
    if encoded := prepared_corpus.load(corpus):
        return encoded.validation
    texts = [corpus, *([replace(corpus, source=corpus.validation, sha256=())] if corpus.validation else [])]
    if not all(sources.is_available(text) for text in texts):
        raise UserError(f"{' '.join(corpus.source)}: the text is not available")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.ids"
        encode_split(corpus, "validation", words, path, "<i4")
        return np.fromfile(path, "<i4")
