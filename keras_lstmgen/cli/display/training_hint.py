"""Advise a user whose training over-fits, with values that the project's benchmarks support."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError, shell_quoted

RISE = 0.02  # nats per token above the lowest validation loss; smaller differences are noise
# The ablations use half a megabyte of English. They say nothing about much smaller or larger texts.
MEASURED_CHARACTERS = range(250_000, 1_000_001)


class Remedy(NamedTuple):
    """A field of the recipe that lowers the validation loss in benchmarks/README.md, "Ablation"."""

    name: str
    unset: float  # the value for which the benchmark measures a gain
    value: float


# Gains in nats per token: 0.045 and 0.032.
CHARACTERS = (Remedy("model.dropout", 0, 0.25), Remedy("model.members", 1, 2))
# Gains: 0.11 for dropout; 0.18 for the other two together.
SUBWORDS = (
    Remedy("model.dropout", 0, 0.4),
    Remedy("model.activation_regularization", 0, 2),
    Remedy("model.embedding_dropout", 0, 0.1),
)


def overfitting_hint(folder: Path, settings: Recipe, characters: int, history: Sequence[dict[str, float]]) -> str:
    """Return a hint if the validation loss has risen, otherwise "".

    Args:
        folder: the run.
        settings: its recipe.
        characters: number of characters of the training text.
        history: a row for each epoch, with the key ``val_loss`` in nats per token.
    """
    losses = [row["val_loss"] for row in history]
    if losses[-1] <= min(losses) + RISE:
        return ""
    hint = (
        f"It over-fits: the validation loss rose from {min(losses):.3f} to {losses[-1]:.3f} nats per token. "
        "The run keeps the weights with the lowest loss."
    )
    remedies = _remedies(settings, characters)
    if not remedies:
        return hint
    options = " ".join(f"--{remedy.name} {remedy.value:g}" for remedy in remedies)
    recipe_path = shell_quoted(folder / run_directory.RECIPE)
    runs, name = shell_quoted(folder.parent), shell_quoted(folder.name)
    return (
        f"{hint}\nIn a benchmark with a text of this size, these options lower the loss: "
        f"keras-lstmgen train {recipe_path} --runs {runs} --name {name} {options}"
    )


def _remedies(settings: Recipe, characters: int) -> list[Remedy]:
    """Return the measured remedies that the recipe does not have; for characters the first of them."""
    kind = settings.tokenizer.type
    if characters not in MEASURED_CHARACTERS or settings.corpus.is_pairs or kind == "word":
        return []
    values = recipe.to_tables(settings)["model"]
    missing = [
        remedy
        for remedy in (CHARACTERS if kind == "char" else SUBWORDS)
        if values[remedy.name.removeprefix("model.")] == remedy.unset
    ]
    chosen = missing[:1] if kind == "char" else missing
    return chosen if _is_valid(settings, chosen) else []


def _is_valid(settings: Recipe, remedies: Sequence[Remedy]) -> bool:
    """Return whether a recipe with these values may be trained."""
    types = recipe.recipe_fields()
    try:
        recipe.override(settings, {name: types[name][0](value) for name, _, value in remedies})
    except UserError:
        return False
    return True
