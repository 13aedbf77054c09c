"""Build the data of a training: encode the corpus, and create batches and the held-out text."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from keras_lstmgen.models.continuation import Vocabulary
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system import malloc
from keras_lstmgen.tokenizers.tokenizer import check_writable
from keras_lstmgen.utils.errors import UserError

# Limits of the held-out text that is scored after each epoch: number of tokens, and number of logits (tokens times V).
VALIDATION_TOKENS, VALIDATION_LOGITS = 2**19, 2**31
BYTES_PER_PARAMETER = 16  # weight, gradient and the two moments of Adam, all float32


@dataclass(frozen=True)
class TrainingData:
    """An encoded corpus, and the values that a training derives from it.

    Attributes:
        recipe: the recipe, with a value for each size.
        encoded: the tokenized corpus: token ids, counts of characters and tokens, and the tokenizer.
        train_examples: examples of the training split. None if the model reads the split as continuous text.
        validation_examples: the held-out examples that are scored after each epoch. None if the model reads the
            held-out text as continuous text.
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
        """The ids of the held-out text that are scored after each epoch, integer [N]."""
        return held_out_ids(self.encoded)

    @property
    def scored_tokens(self) -> int:
        """The number of held-out tokens whose loss is measured after each epoch."""
        if self.validation_examples is None:
            return len(self.held_out_ids) - 1
        return example_batches.target_tokens(self.validation_examples)

    @property
    def batch_tokens(self) -> float:
        """The average number of tokens in a batch, without padding."""
        part = self.recipe.training
        if self.train_examples is None:
            return part.batch_size * part.window
        return len(self.encoded.train) / self.batches_per_epoch

    @property
    def max_batch_weight(self) -> float:
        """The largest weight that a batch can have in the loss, as a multiple of the average weight of a batch.

        A batch of long examples has more than the average weight.
        """
        if self.train_examples is None:
            return 1.0
        weights = example_batches.loss_weights(self.train_examples, self.recipe.training.source_loss)
        return float(weights.max() / weights.mean())

    @property
    def tokens_per_character(self) -> dict[Split, float]:
        """For each split, the number of predicted tokens per predicted character.

        This number converts a loss per token to a loss per character.
        """
        counts = {split: self.counts(split) for split in SPLITS}
        return {split: values["tokens"] / max(values["characters"], 1) for split, values in counts.items()}

    def counts(self, split: Split) -> dict[str, int]:
        """Return the numbers of tokens, characters and bytes of a split, to convert its loss into other units.

        Only predicted tokens are counted. The first token of a continuous text is not predicted, because no token
        precedes the first token. If the model reads documents separately, their start symbols are not predicted either.
        """
        amounts, ids = self.encoded.counts[split], getattr(self.encoded, split)
        if self.recipe.carries:
            return likelihood.without_first_token(amounts, int(ids[:1][0]), self.encoded.tokenizer)
        starts = 0 if self.recipe.corpus.is_pairs else amounts["documents"]
        return amounts | {"tokens": amounts["tokens"] - starts}

    def dataset(self, first: int) -> tf.data.Dataset:
        """Create a dataset that starts at the batch with index ``first``. It contains only the rows of this worker."""
        part = self.recipe.training
        rows = workers.batch_rows(part.batch_size)
        batching = stream_windows.Batching(part.batch_size, part.window, part.epochs, part.seed, first, rows)
        if self.train_examples is None:
            return stream_windows.dataset(self.encoded.train, batching, shifted=part.random_offsets)
        return example_batches.dataset(self.train_examples, batching, source_loss=part.source_loss)


def load(recipe: Recipe, runs: Path, words: Vocabulary | None = None) -> TrainingData:
    """Encode the corpus, choose the sizes that the recipe does not contain, and check that a training is possible.

    Args:
        recipe: the recipe.
        runs: folder of the runs. Its subfolder ``.encoded`` caches the token ids.
        words: the vocabulary of the run from which the training starts. None to train a vocabulary.

    Raises:
        UserError: if the corpus is not suitable for the recipe, or if this machine cannot train the model.
    """
    check_precision(recipe.training.precision)
    recipe = prepared_corpus.with_prepared_tables(recipe)
    with reporter.status("reading the corpus") as show:
        encoded = prepared_corpus.load(recipe.corpus) or _encode(recipe, runs, show, words)
    if words:
        encoded = _with_vocabulary(recipe, encoded, words)
    check_writable(encoded.tokenizer, encoded.unsampled_ids)
    examples = None if recipe.corpus.documents == "stream" else _examples(recipe, encoded.train)
    recipe = _with_sizes(recipe, encoded, examples)
    _check_memory(recipe, encoded.tokenizer.vocab_size)
    return _training_data(recipe, encoded, None if recipe.carries else examples)


def _encode(recipe: Recipe, runs: Path, show: Callable[[str], None], words: Vocabulary | None) -> Encoded:
    """Tokenize the corpus of a recipe, or read its ids from the cache."""
    return encode(recipe, runs / ".encoded", show, words.tokenizer if words else None)


def _with_vocabulary(recipe: Recipe, encoded: Encoded, words: Vocabulary) -> Encoded:
    """Return the corpus such that a model can also generate the ids on which its weights were trained before.

    Raises:
        UserError: if a prepared corpus has another vocabulary.
    """
    if encoded.tokenizer.model != words.tokenizer.model:
        raise UserError(
            f"{recipe.corpus.source[0]}: was prepared with a vocabulary other than that of "
            f"{recipe.training.init_from}; train on the text itself"
        )
    return replace(encoded, unsampled_ids=tuple(sorted({*encoded.unsampled_ids} & {*words.unsampled_ids})))


def _training_data(recipe: Recipe, encoded: Encoded, examples: Examples | None) -> TrainingData:
    """Build the data of a training. Raise UserError if a split is too small."""
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
    """Raise UserError if this machine cannot train with the given ``training.precision``."""
    if precision == "bfloat16" and not (native_ops.has_bfloat16() or compute_dtype.has_gpu()):
        raise UserError("training.precision: this processor does not multiply bfloat16; give auto or float32")


def _examples(recipe: Recipe, ids: NDArray[np.integer]) -> Examples:
    """Return the pairs or documents of a split. Raise UserError if the ids of a corpus of pairs do not form pairs."""
    try:
        return example_batches.find_examples(ids, recipe.corpus.is_pairs)
    except ValueError as error:
        raise UserError(f"{' '.join(recipe.corpus.source)}: {error}; prepare the corpus again") from error


def _with_sizes(recipe: Recipe, encoded: Encoded, examples: Examples | None) -> Recipe:
    """Return the recipe with values for the sizes that it does not contain, and report these values."""
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
    """If many documents are longer than the window, report how the training reads these documents."""
    if longest <= recipe.training.window:
        return
    effect = (
        "each document starts with the LSTM state of the previous one"
        if recipe.carries
        else "longer documents are cut to the window"
    )
    reporter.message(
        f"{1 - auto_sizes.LONG_DOCUMENT_SHARE:.0%} of the documents have at most {longest:,} tokens, and a window has "
        f"{recipe.training.window:,}: {effect}; --training.window {longest} reads each document whole and separately"
    )


def _check_memory(recipe: Recipe, V: int) -> None:
    """Raise UserError if the parameters and the optimizer need more memory than this process may use."""
    numbers = parameters(recipe.model, V)
    available = malloc.available()
    if BYTES_PER_PARAMETER * numbers > available:
        raise UserError(
            f"the model has {numbers:,} parameters, and training needs {BYTES_PER_PARAMETER} bytes for each, more than "
            f"the {available / 1e9:,.1f} GB that this process may use; lower model.units, model.layers or "
            "tokenizer.vocab_size"
        )


def digest(encoded: Encoded) -> str:
    """Return the sha256 of the ids of both splits. Checkpoints use it to identify the text of a training."""
    sha256 = hashlib.sha256()
    for piece in itertools.chain(stream_windows.pieces(encoded.train), stream_windows.pieces(encoded.validation)):
        sha256.update(piece.data)
    return sha256.hexdigest()


def held_out_ids(encoded: Encoded) -> NDArray[np.integer]:
    """Return the ids of the held-out text that are scored after each epoch, integer [N]."""
    return encoded.validation[: max_scored_tokens(encoded.tokenizer.vocab_size)]


def max_scored_tokens(V: int) -> int:
    """Return the maximum number of held-out tokens that are scored after each epoch, for a vocabulary size V."""
    return min(VALIDATION_TOKENS, VALIDATION_LOGITS // V)
