"""Select values for recipe fields that are "auto". The values depend on the size of the training text."""

import math
from typing import NamedTuple

from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import AUTO, Recipe


class Size(NamedTuple):
    """Default values for training texts with at most ``tokens`` tokens."""

    tokens: float
    units: int
    layers: int
    dropout: float
    batch_size: int
    epochs: int


# Models over-fit small texts sooner, so they get fewer units or more dropout. Large texts need fewer epochs.
CHARACTERS = (
    Size(60_000, units=128, layers=1, dropout=0.2, batch_size=16, epochs=30),
    Size(3_000_000, units=512, layers=1, dropout=0.25, batch_size=32, epochs=7),
    Size(20_000_000, units=768, layers=1, dropout=0.2, batch_size=64, epochs=3),
    Size(math.inf, units=1024, layers=2, dropout=0.1, batch_size=64, epochs=1),
)
# Words and subwords have their own sizes, because each contains more information than a character and is rarer.
PIECES = (
    Size(100_000, units=128, layers=1, dropout=0.4, batch_size=16, epochs=20),
    Size(200_000, units=256, layers=1, dropout=0.4, batch_size=32, epochs=20),
    Size(700_000, units=256, layers=1, dropout=0.4, batch_size=32, epochs=12),
    Size(5_000_000, units=512, layers=1, dropout=0.5, batch_size=32, epochs=9),
    Size(math.inf, units=1024, layers=1, dropout=0.3, batch_size=64, epochs=2),
)
EMBEDDINGS = ((1_000, 64), (10_000, 256), (math.inf, 512))  # pairs (maximum vocabulary size, E)
WINDOWS = 20  # minimum number of batches per epoch
# Models over-fit small texts of words or subwords. The options below were the most effective options in
# benchmarks/README.md, "Ablation". AWD-LSTM (Merity et al., 2018) uses the same activation regularization.
SMALL_TEXT = 700_000  # maximum number of tokens of a small text
INPUT_DROPOUT, EMBEDDING_DROPOUT, ACTIVATION_REGULARIZATION = 0.1, 0.1, 2.0
LONG_DOCUMENT_SHARE = 0.01  # training.state is "fresh" if at most this share of the documents is longer than a window


def choose(settings: Recipe, tokens: int, V: int, longest: int = 0) -> dict[str, int | float | str]:
    """Select a value for each recipe field that is "auto".

    Args:
        settings: the recipe.
        tokens: number of tokens in the training text.
        V: vocabulary size.
        longest: at most 1 % of the documents have more tokens than this number; 0 if there are no documents.

    Returns:
        Values by dotted name for ``recipe.override``, such as ``{"model.units": 512, ...}``.
    """
    model, training = settings.model, settings.training
    table = CHARACTERS if settings.tokenizer.type == "char" else PIECES
    size = next(size for size in table if tokens <= size.tokens)
    units = model.embedding_size if model.tied and model.embedding_size != AUTO else size.units
    tied_size = model.units if model.units != AUTO else units
    values: dict[str, int | float | str] = {
        "model.units": units,
        "model.layers": size.layers,
        "model.embedding_size": tied_size if model.tied else next(E for limit, E in EMBEDDINGS if limit >= V),
        "model.dropout": size.dropout,
        "training.batch_size": _batch_size(size.batch_size, tokens, training.window),
        "training.epochs": 0 if training.minutes else size.epochs,
    }
    if settings.tokenizer.type != "char" and tokens <= SMALL_TEXT:
        values |= _small_text_regularization(settings, size.dropout if model.dropout == AUTO else model.dropout)
    if longest:
        values["training.state"] = _state(training, longest)
    open_values = {
        f"{section}.{key}" for section, table in recipe.to_tables(settings).items()
        for key, value in table.items() if value == recipe.AUTO_WORD
    }  # fmt: skip
    return {name: value for name, value in values.items() if name in open_values}


def _small_text_regularization(settings: Recipe, dropout: float) -> dict[str, int | float | str]:
    """Return the regularization for a small text of words or subwords.

    For pairs, return only input dropout, because the benchmarks did not test the other options on pairs. For ensembles,
    omit activation regularization, because ensembles do not support it.
    """
    values: dict[str, int | float | str] = {"model.input_dropout": min(INPUT_DROPOUT, dropout)}
    if not settings.corpus.is_pairs:
        values["model.embedding_dropout"] = EMBEDDING_DROPOUT
        if settings.model.members == 1:
            values["model.activation_regularization"] = ACTIVATION_REGULARIZATION
    return values


def _batch_size(largest: int, tokens: int, T: int) -> int:
    """Halve a batch size until an epoch has at least 20 batches, and return the result. The result is at least 1.

    Args:
        largest: batch size to start from.
        tokens: number of tokens in the training text.
        T: time steps of a window.
    """
    B = largest
    while B > 1 and tokens < WINDOWS * B * T:
        B //= 2
    return B


def _state(training: recipe.Training, longest: int) -> str:
    """Return the value of ``training.state``.

    Return "fresh" if at least 99 % of the documents fit into a window. Each document then starts from a zero state, as
    in generation. Otherwise, or if sampled softmax is used, return "carried": each document starts from the final state
    of the previous document.
    """
    return recipe.FRESH if longest <= training.window and not training.sampled_softmax else recipe.CARRIED


def summary(values: dict[str, int | float | str], tokens: int) -> str:
    """Format the selected values as command line options."""
    shown = {name: value if isinstance(value, str) else f"{value:g}" for name, value in values.items()}
    options = " ".join(f"--{name} {value}" for name, value in shown.items())
    return f"Selected for a text of {tokens:,} tokens: {options}"
