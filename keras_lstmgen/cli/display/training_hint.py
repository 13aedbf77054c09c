"""Recommend recipe values that lowered the loss in benchmarks if a training over-fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError, shell_quoted

RISE = 0.02  # nats per token; a smaller rise above the lowest validation loss is treated as noise
# The benchmarks used half a megabyte of English text. Their results may not hold for much smaller or larger texts.
MEASURED_CHARACTERS = range(250_000, 1_000_001)


class Remedy(NamedTuple):
    """A recipe field that lowered the validation loss in benchmarks/README.md, "Ablation"."""

    name: str  # dotted name of the field
    unset: float  # value of the baseline in the benchmark
    value: float  # value that lowered the loss


# In the benchmark with characters, dropout lowered the loss by 0.045 nats per token, and two members by 0.032.
CHARACTERS = (Remedy("model.dropout", 0, 0.25), Remedy("model.members", 1, 2))
# In the benchmark with subwords, dropout lowered the loss by 0.11 nats per token. The other two remedies together
# lowered the loss by 0.18.
SUBWORDS = (
    Remedy("model.dropout", 0, 0.4),
    Remedy("model.activation_regularization", 0, 2),
    Remedy("model.embedding_dropout", 0, 0.1),
)


def overfitting_hint(folder: Path, settings: Recipe, characters: int, history: Sequence[dict[str, float]]) -> str:
    """If the validation loss has risen, return a hint for the user.

    Args:
        folder: the folder of the run.
        settings: the recipe of the run.
        characters: number of characters in the training text.
        history: a row for each epoch. The key ``val_loss`` is the validation loss in nats per token.

    Returns:
        The hint, with a command if ``_remedies`` recommends options; "" if the validation loss has not risen.
    """
    losses = [row["val_loss"] for row in history]
    if losses[-1] <= min(losses) + RISE:
        return ""
    hint = (
        f"The model over-fits: the validation loss rose from {min(losses):.3f} to {losses[-1]:.3f} nats per token. "
        "The run keeps the weights with the lowest validation loss."
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
    """Return the remedies that the recipe does not use yet.

    For a character-level model, return at most one remedy, because the benchmark tested each remedy separately. Return
    an empty list if no benchmark used this tokenizer with a text of this size, if the documents are pairs, or if the
    recipe would be invalid with the remedies.
    """
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
    """Return whether the recipe is valid with the values of the remedies."""
    types = recipe.recipe_fields()
    try:
        recipe.override(settings, {name: types[name][0](value) for name, _, value in remedies})
    except UserError:
        return False
    return True
