"""What a training reads: its corpus made ready and checked, its batches, and what it is measured on.

A text goes on from window to window (``streams``); documents, where they fit, and pairs are read each by itself
(``pairs``).
"""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.config import auto_sizes, recipe
from keras_lstmgen.data import example_batches, prepared_corpus, stream_windows
from keras_lstmgen.data.splits import Split
from keras_lstmgen.data.token_cache import Encoded, encode
from keras_lstmgen.distribution import workers
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.layers import compute_dtype, native_ops
from keras_lstmgen.models.builder import parameters
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system import malloc
from keras_lstmgen.tokenizers.tokenizer import check_writable
from keras_lstmgen.utils.errors import UserError

# Most tokens of the held-out text that each epoch is measured on, and numbers in their logits: it is to stay short.
VALIDATION_TOKENS, VALIDATION_LOGITS = 2**19, 2**31


def prepare(settings: recipe.Recipe, runs: Path) -> tuple[recipe.Recipe, Encoded]:
    """Encode the corpus into ``runs/.encoded``, choose what is left to its size, check that it fills a window."""
    check_precision(settings.training.precision)
    settings = prepared_corpus.adopted(settings)
    with reporter.status("reading the corpus") as show:
        encoded = prepared_corpus.opened(settings.corpus) or encode(settings, runs / ".encoded", show)
    check_writable(encoded.tokenizer, encoded.unsampled_ids)
    tokens = len(encoded.train)
    longest = _longest(settings, encoded)
    if values := auto_sizes.choose(settings, tokens, encoded.tokenizer.vocab_size, longest):
        reporter.message(auto_sizes.summary(values, tokens))
        settings = recipe.override(settings, values)
    _tell_of_long(settings, longest)
    _check_size(settings, encoded.tokenizer.vocab_size)
    windows(settings, encoded)
    if len(encoded.validation) < 2:
        raise UserError(
            "the validation part has no text to predict: raise corpus.validation_fraction or give more text"
        )
    return settings, encoded


def check_precision(precision: str) -> None:
    """UserError where the machine cannot train in it."""
    if precision == "bfloat16" and not (native_ops.has_bfloat16() or compute_dtype.has_gpu()):
        raise UserError("training.precision: this processor does not multiply bfloat16; give auto or float32")


def _longest(settings: recipe.Recipe, encoded: Encoded) -> int:
    """Ids that nearly all documents have at most; 0 where these are no documents."""
    if settings.corpus.documents == "stream" or settings.corpus.is_pairs:
        return 0
    return example_batches.longest(example_batches.documents(encoded.train), auto_sizes.LONG_DOCUMENT_SHARE)


def _tell_of_long(settings: recipe.Recipe, longest: int) -> None:
    """Say what a window is too short for."""
    if longest <= settings.training.window:
        return
    what = (
        "each document finds the state that the one before it has left" if settings.carries else "others lose their end"
    )
    reporter.message(
        f"{1 - auto_sizes.LONG_DOCUMENT_SHARE:.0%} of the documents have at most {longest:,} tokens, and a window has "
        f"{settings.training.window:,}: {what}; --training.window {longest} reads each whole, and by itself"
    )


def _check_size(settings: recipe.Recipe, V: int) -> None:
    """Refuse a model whose weights, gradients and Adam's two moments, float32, need more memory than there is."""
    numbers = parameters(settings.model, V)
    room = malloc.available()
    if 16 * numbers > room:
        raise UserError(
            f"the model has {numbers:,} numbers, and to train each takes 16 bytes, more than the {room / 1e9:,.1f} GB "
            "that this process may use; lower model.units, model.layers or tokenizer.vocab_size"
        )


def examples(settings: recipe.Recipe, ids: NDArray[np.integer]) -> example_batches.Pairs:
    """What is read by itself: pairs, or documents. UserError if ids that were prepared as pairs are none."""
    try:
        return example_batches.examples(ids, settings.corpus.is_pairs)
    except ValueError as error:
        raise UserError(f"{' '.join(settings.corpus.source)}: {error}; prepare the corpus again") from error


def dataset(settings: recipe.Recipe, encoded: Encoded, first: int) -> tf.data.Dataset:
    """The batches from the ``first`` on."""
    part = settings.training
    sizes, rows = (part.batch_size, part.window, part.epochs, part.seed), workers.batch_rows(part.batch_size)
    if not settings.carries:
        found, weight = examples(settings, encoded.train), part.source_loss
        return example_batches.dataset(found, *sizes, source_loss=weight, first_batch=first, rows=rows)
    return stream_windows.dataset(encoded.train, *sizes, first_window=first, rows=rows, shifted=part.random_offsets)


def heaviest(settings: recipe.Recipe, encoded: Encoded) -> float:
    """How many average batches one may count for in the loss: more than 1 where all its examples are long."""
    if settings.carries:
        return 1.0
    counting = example_batches.counting(examples(settings, encoded.train), settings.training.source_loss)
    return float(counting.max() / counting.mean())


def windows(settings: recipe.Recipe, encoded: Encoded) -> int:
    """Batches of an epoch."""
    if not settings.carries:
        return example_batches.batches(examples(settings, encoded.train), settings.training.batch_size)
    return stream_windows.windows(len(encoded.train), settings.training.batch_size, settings.training.window)


def digest(encoded: Encoded) -> str:
    """What tells one text from another: sha256 of its ids, train and validation."""
    sha256 = hashlib.sha256()
    for piece in itertools.chain(stream_windows.pieces(encoded.train), stream_windows.pieces(encoded.validation)):
        sha256.update(piece.data)
    return sha256.hexdigest()


def scored(settings: recipe.Recipe, encoded: Encoded) -> int:
    """How many ids an epoch's measuring looks at."""
    return len(held_out(encoded)) - 1 if settings.carries else example_batches.predicted(tried(settings, encoded))


def tried(settings: recipe.Recipe, encoded: Encoded) -> example_batches.Pairs:
    """The held-out pairs or documents that each epoch is measured on."""
    return example_batches.some(examples(settings, encoded.validation), len(held_out(encoded)))


def held_out(encoded: Encoded) -> NDArray[np.integer]:
    """The part of the held-out text that each epoch is measured on."""
    return encoded.validation[: min(VALIDATION_TOKENS, VALIDATION_LOGITS // encoded.tokenizer.vocab_size)]


def per_character(settings: recipe.Recipe, encoded: Encoded, split: Split) -> float:
    """Return the predicted tokens for each predicted character of a split, which converts its loss per token."""
    amounts = counts(settings, encoded, split)
    return amounts["tokens"] / max(amounts["characters"], 1)


def counts(settings: recipe.Recipe, encoded: Encoded, split: Split) -> dict[str, int]:
    """Return the counts that convert the loss of a split into other units.

    They cover what the model predicts: a stream without its first token, which has nothing before it, and documents
    that are read each by itself without their start symbols.
    """
    amounts, ids = encoded.counts[split], getattr(encoded, split)
    if settings.carries:
        return likelihood.without_first_token(amounts, int(ids[:1][0]), encoded.tokenizer)
    starts = 0 if settings.corpus.is_pairs else amounts["documents"]
    return amounts | {"tokens": amounts["tokens"] - starts}


def batch_tokens(settings: recipe.Recipe, encoded: Encoded) -> float:
    """Tokens that a batch reads: of examples, whose batches differ, in the mean and without the padding."""
    part = settings.training
    return part.batch_size * part.window if settings.carries else len(encoded.train) / windows(settings, encoded)
