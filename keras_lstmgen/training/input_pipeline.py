"""Build the data of a training: token ids, example boundaries, batches and the held-out part."""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.config import auto_sizes
from keras_lstmgen.config.recipe import Recipe, override
from keras_lstmgen.data import example_batches, prepared_corpus, stream_windows
from keras_lstmgen.data.example_batches import Examples
from keras_lstmgen.data.splits import Split
from keras_lstmgen.data.token_cache import SPLITS, Encoded, encode
from keras_lstmgen.distribution import workers
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.layers import compute_dtype, native_ops
from keras_lstmgen.models.builder import parameters
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system import malloc
from keras_lstmgen.tokenizers.tokenizer import check_writable
from keras_lstmgen.utils.errors import UserError

# Limits of the text that is scored after each epoch: tokens, and logits (tokens times vocabulary size).
VALIDATION_TOKENS, VALIDATION_LOGITS = 2**19, 2**31
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and Adam's two moments


@dataclass(frozen=True)
class TrainingData:
    """An encoded corpus, and the values derived from it that a training uses.

    Attributes:
        recipe: the recipe, in which no size is left open.
        encoded: token ids, counts and vocabulary.
        train_examples: examples of the training split; None if it is read as continuous streams.
        validation_examples: the held-out examples scored after each epoch; None if the text is read as a stream.
        batches_per_epoch: number of batches per epoch.
    """

    recipe: Recipe
    encoded: Encoded
    train_examples: Examples | None
    validation_examples: Examples | None
    batches_per_epoch: int

    @property
    def vocab_size(self) -> int:
        """The vocabulary size V."""
        return self.encoded.tokenizer.vocab_size

    @property
    def held_out_ids(self) -> NDArray[np.integer]:
        """The part of the held-out text that is scored after each epoch, integer [N]."""
        return held_out_ids(self.encoded)

    @property
    def scored_tokens(self) -> int:
        """The number of held-out tokens that are predicted after each epoch."""
        if self.validation_examples is None:
            return len(self.held_out_ids) - 1
        return example_batches.target_tokens(self.validation_examples)

    @property
    def batch_tokens(self) -> float:
        """The number of tokens in a batch without padding, on average over an epoch if batches differ."""
        part = self.recipe.training
        if self.train_examples is None:
            return part.batch_size * part.window
        return len(self.encoded.train) / self.batches_per_epoch

    @property
    def max_batch_weight(self) -> float:
        """The largest weight that a batch can have in the loss, in average batches.

        It exceeds 1 if the examples of a batch can all be long.
        """
        if self.train_examples is None:
            return 1.0
        weights = example_batches.loss_weights(self.train_examples, self.recipe.training.source_loss)
        return float(weights.max() / weights.mean())

    @property
    def tokens_per_character(self) -> dict[Split, float]:
        """The predicted tokens per predicted character of each split, which convert its loss per token."""
        counts = {split: self.counts(split) for split in SPLITS}
        return {split: values["tokens"] / max(values["characters"], 1) for split, values in counts.items()}

    def counts(self, split: Split) -> dict[str, int]:
        """Return the counts that convert the loss of a split into other units.

        They cover the predicted tokens only. The first token of a stream is not predicted, because no token precedes
        it. The start symbols of documents that are read separately are not predicted either.
        """
        amounts, ids = self.encoded.counts[split], getattr(self.encoded, split)
        if self.recipe.carries:
            return likelihood.without_first_token(amounts, int(ids[:1][0]), self.encoded.tokenizer)
        starts = 0 if self.recipe.corpus.is_pairs else amounts["documents"]
        return amounts | {"tokens": amounts["tokens"] - starts}

    def dataset(self, first: int) -> tf.data.Dataset:
        """Create the dataset of this worker's rows of all batches from the batch with index ``first`` on."""
        part = self.recipe.training
        rows = workers.batch_rows(part.batch_size)
        batching = stream_windows.Batching(part.batch_size, part.window, part.epochs, part.seed, first, rows)
        if self.train_examples is None:
            return stream_windows.dataset(self.encoded.train, batching, shifted=part.random_offsets)
        return example_batches.dataset(self.train_examples, batching, source_loss=part.source_loss)


def load(recipe: Recipe, runs: Path) -> TrainingData:
    """Encode the corpus, choose the sizes that the recipe leaves open, and check that a model can train on it.

    Args:
        recipe: the recipe.
        runs: folder of the runs; its subfolder ``.encoded`` caches the token ids.

    Raises:
        UserError: if the corpus, the recipe and the machine do not go together.
    """
    check_precision(recipe.training.precision)
    recipe = prepared_corpus.with_prepared_tables(recipe)
    with reporter.status("reading the corpus") as show:
        encoded = prepared_corpus.load(recipe.corpus) or encode(recipe, runs / ".encoded", show)
    check_writable(encoded.tokenizer, encoded.unsampled_ids)
    examples = None if recipe.corpus.documents == "stream" else _examples(recipe, encoded.train)
    recipe = _with_sizes(recipe, encoded, examples)
    _check_memory(recipe, encoded.tokenizer.vocab_size)
    return _training_data(recipe, encoded, None if recipe.carries else examples)


def _training_data(recipe: Recipe, encoded: Encoded, examples: Examples | None) -> TrainingData:
    """Check that both splits are large enough, and build the data."""
    B, T = recipe.training.batch_size, recipe.training.window
    if examples is None:
        batches = stream_windows.windows_per_epoch(len(encoded.train), B, T)
    else:
        batches = example_batches.batches_per_epoch(examples, B)
    if len(encoded.validation) < 2:
        raise UserError(
            "the validation split has fewer than two tokens; raise corpus.validation_fraction or give more text"
        )
    validation = None
    if examples is not None:
        whole = _examples(recipe, encoded.validation)
        validation = example_batches.first_examples(whole, len(held_out_ids(encoded)))
    return TrainingData(recipe, encoded, examples, validation, batches)


def check_precision(precision: str) -> None:
    """Raise UserError if this machine cannot train in a precision."""
    if precision == "bfloat16" and not (native_ops.has_bfloat16() or compute_dtype.has_gpu()):
        raise UserError("training.precision: this processor does not multiply bfloat16; give auto or float32")


def _examples(recipe: Recipe, ids: NDArray[np.integer]) -> Examples:
    """Return the pairs or documents of a split; raise UserError if the ids do not contain pairs."""
    try:
        return example_batches.find_examples(ids, recipe.corpus.is_pairs)
    except ValueError as error:
        raise UserError(f"{' '.join(recipe.corpus.source)}: {error}; prepare the corpus again") from error


def _with_sizes(recipe: Recipe, encoded: Encoded, examples: Examples | None) -> Recipe:
    """Return the recipe with a value for each size that it leaves open, and report the values."""
    longest = 0
    if examples is not None and not recipe.corpus.is_pairs:
        longest = example_batches.length_quantile(examples, auto_sizes.LONG_DOCUMENT_SHARE)
    tokens = len(encoded.train)
    if values := auto_sizes.choose(recipe, tokens, encoded.tokenizer.vocab_size, longest):
        reporter.message(auto_sizes.summary(values, tokens))
        recipe = override(recipe, values)
    _report_long_documents(recipe, longest)
    return recipe


def _report_long_documents(recipe: Recipe, longest: int) -> None:
    """Report that documents are longer than a window, if they are."""
    if longest <= recipe.training.window:
        return
    effect = (
        "each document starts with the state of the previous one" if recipe.carries else "longer ones lose their end"
    )
    reporter.message(
        f"{1 - auto_sizes.LONG_DOCUMENT_SHARE:.0%} of the documents have at most {longest:,} tokens, and a window has "
        f"{recipe.training.window:,}: {effect}; --training.window {longest} reads each document whole and separately"
    )


def _check_memory(recipe: Recipe, V: int) -> None:
    """Raise UserError if the training needs more memory than this process may use."""
    numbers = parameters(recipe.model, V)
    available = malloc.available()
    if BYTES_PER_PARAMETER * numbers > available:
        raise UserError(
            f"the model has {numbers:,} parameters, and training needs {BYTES_PER_PARAMETER} bytes for each, more than "
            f"the {available / 1e9:,.1f} GB that this process may use; lower model.units, model.layers or "
            "tokenizer.vocab_size"
        )


def digest(encoded: Encoded) -> str:
    """Return the sha256 of the ids of both splits, which identifies the text of a training."""
    sha256 = hashlib.sha256()
    for piece in itertools.chain(stream_windows.pieces(encoded.train), stream_windows.pieces(encoded.validation)):
        sha256.update(piece.data)
    return sha256.hexdigest()


def held_out_ids(encoded: Encoded) -> NDArray[np.integer]:
    """Return the first ids of the held-out text, as many as are scored after each epoch."""
    return encoded.validation[: min(VALIDATION_TOKENS, VALIDATION_LOGITS // encoded.tokenizer.vocab_size)]
