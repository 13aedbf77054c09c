"""What a recipe leaves open is chosen from the size of the text; what it gives is left alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.config import auto_sizes, recipe

KINDS = ("char", "word", "bpe", "unigram")
sizes = st.integers(1, 10**10)


def resolved(values: dict[str, object], tokens: int, V: int = 300) -> recipe.Recipe:
    settings = recipe.override(recipe.Recipe(), values)
    return recipe.override(settings, auto_sizes.choose(settings, tokens, V))


@given(sizes, st.integers(2, 10**6), st.sampled_from(KINDS), st.booleans(), st.floats(0, 100))
def test_a_text_of_any_size_gets_a_recipe_without_gaps(
    tokens: int, V: int, kind: str, tied: bool, minutes: float
) -> None:
    made = resolved({"tokenizer.type": kind, "model.tied": tied, "training.minutes": minutes}, tokens, V)
    left = {key for table in recipe.to_tables(made).values() for key, value in table.items() if value == "auto"}
    kept = {"input_dropout", "embedding_dropout", "activation_regularization", "precision", "state"}
    assert left <= kept  # which mean something of their own
    assert (made.training.epochs == 0) == (minutes > 0)


@given(sizes, st.integers(2, 10**6))
def test_what_is_given_is_never_chosen(tokens: int, V: int) -> None:
    given = {
        "model.units": 7, "model.embedding_size": 5, "model.layers": 3, "model.dropout": 0.0, "training.batch_size": 2,
        "training.epochs": 4,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), given)
    assert auto_sizes.choose(settings, tokens, V) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_text_gets_no_smaller_model_and_no_more_epochs(kind: str) -> None:
    made = [resolved({"tokenizer.type": kind}, 10**power) for power in range(2, 10)]
    for small, large in itertools.pairwise(made):
        assert small.model.units <= large.model.units
        assert small.training.batch_size <= large.training.batch_size
        assert small.training.epochs >= large.training.epochs


@pytest.mark.parametrize("given", [{"model.units": 33}, {"model.embedding_size": 33}])
def test_tied_sizes_follow_the_one_that_is_given(given: dict[str, object]) -> None:
    made = resolved({"model.tied": True, **given}, 10**6)
    assert made.model.units == made.model.embedding_size == 33


@pytest.mark.parametrize(
    ("kind", "tokens", "given", "chosen"),
    [
        ("bpe", 141_327, {}, 0.1), ("word", 5_000, {}, 0.1), ("bpe", 900_000, {}, recipe.AUTO),
        ("char", 418_543, {}, recipe.AUTO), ("bpe", 141_327, {"model.dropout": 0.3}, 0.1),
        ("bpe", 141_327, {"model.dropout": 0.05}, 0.05),
        ("bpe", 141_327, {"model.input_dropout": 0.25}, 0.25),
    ],
)  # fmt: skip
def test_a_small_text_in_subwords_keeps_its_embeddings_nearly_whole(
    kind: str, tokens: int, given: dict[str, object], chosen: float
) -> None:
    assert resolved({"tokenizer.type": kind, **given}, tokens).model.input_dropout == chosen


@pytest.mark.parametrize(
    ("given", "embedding_dropout", "activation_regularization"),
    [
        ({"tokenizer.type": "bpe"}, 0.1, 2.0),
        ({"tokenizer.type": "bpe", "model.members": 2}, 0.1, recipe.AUTO),  # which it does not go with
        ({"tokenizer.type": "bpe", "corpus.documents": "pairs"}, recipe.AUTO, recipe.AUTO),
        ({"tokenizer.type": "bpe", "model.embedding_dropout": 0.0}, 0.0, 2.0),
        ({"tokenizer.type": "char"}, recipe.AUTO, recipe.AUTO),
    ],
)  # fmt: skip
def test_a_small_text_in_subwords_is_kept_from_being_learned_by_heart(
    given: dict[str, object], embedding_dropout: float, activation_regularization: float
) -> None:
    made = resolved(given, 141_327).model
    assert made.embedding_dropout == embedding_dropout
    assert made.activation_regularization == activation_regularization


def test_a_short_text_still_fills_its_windows() -> None:
    made = resolved({}, 1500)
    assert 20 * made.training.batch_size * made.training.window <= 1500


def test_what_was_chosen_is_said_in_the_words_of_the_command_line() -> None:
    settings = recipe.override(recipe.Recipe(), {"model.layers": 2, "model.units": 300})
    said = auto_sizes.summary(auto_sizes.choose(settings, 1_003_854, 321), 1_003_854)
    assert said.startswith("Selected for a text of 1,003,854 tokens: --")
    assert "--training.batch_size 32" in said
    assert "units" not in said
