"""A recipe says everything, refuses what it does not know, and survives being written."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_lstmgen.config import recipe
from keras_lstmgen.utils.errors import UserError


def values_of(kind: Any, limits: Any) -> st.SearchStrategy[Any]:
    """Any valid value of a field."""
    if limits["choices"]:
        words = st.sampled_from(limits["choices"])
        return words if kind is str else st.lists(words, min_size=1, unique=True).map(tuple)
    low = limits["low"] or 0
    kinds = {
        int: st.integers(int(low), int(limits["high"] or 10**6)),
        float: st.floats(low, limits["high"] or 1e6),
        bool: st.just(False),
        str: st.text(min_size=1),
    }
    return kinds.get(kind, st.just(("a.txt", "b ü 字.txt")))


def with_kinds(values: dict[str, Any]) -> dict[str, Any]:
    """What goes with labels, which make pairs, and with several members."""
    two = ("a.txt", "b ü 字.txt")
    without = ("training.sampled_softmax", "model.activation_regularization", "model.copy")
    kept = {name: value for name, value in values.items() if name not in (*without, "corpus.validation")}
    measures = tuple(name for name in kept.get("evaluate.measures", ()) if name not in ("verses", "ngram"))
    labelled = {"corpus.documents": "lines", "corpus.source": two, "corpus.labels": two}
    return without_state(kept, "carried") | labelled | {"evaluate.measures": measures}


def of_one_text(values: dict[str, Any]) -> dict[str, Any]:
    """What goes with a text that is no pairs, and with one member."""
    without = ("corpus.labels", "corpus.documents", "model.members", "model.copy", "evaluate.measures")
    return {name: value for name, value in without_state(values, "fresh").items() if name not in without}


def without_state(values: dict[str, Any], state: str) -> dict[str, Any]:
    """All but this one value."""
    return {name: value for name, value in values.items() if (name, value) != ("training.state", state)}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the first text drawn loads Unicode's tables
@given(st.data())
def test_what_is_written_is_what_is_read(data: st.DataObject) -> None:
    values = {
        name: data.draw(values_of(kind, limits))
        for name, (kind, _, limits) in recipe.recipe_fields().items()
        if name != "corpus.sha256" and data.draw(st.booleans())
    }
    values["training.epochs"], values["corpus.field"] = 1, "text"
    values = with_kinds(values) if data.draw(st.booleans()) else of_one_text(values)
    made = recipe.override(recipe.Recipe(), values)
    assert recipe.parse(tomllib.loads(recipe.to_toml(made))) == made


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[model]\nunit = 3", r"r\.toml: unknown key 'model\.unit'; the nearest is 'model\.units'"),
        (
            "units = 3",
            r"unknown key 'units'; a recipe has the tables corpus, tokenizer, model, training, export",
        ),
        ("[modle]\nunits = 3", r"the nearest is 'model\.units'"),
        ("[model]\nunits = 0", r"model\.units: 0 is out of range; give a number from 1"),
        ("[model]\nunits = -1", r"model\.units: -1 is out of range"),
        ("[training]\nwindow = 'auto'", r"training\.window: 'auto' is not a whole number"),
        ("[model]\nunits = 'many'", r"model\.units: 'many' is not a whole number"),
        ("[model]\nunits = true", r"model\.units: True is not a whole number"),
        ("[model]\ntied = 1", r"model\.tied: 1 is not true or false"),
        ("[training]\nlearning_rate = nan", r"training\.learning_rate: nan is out of range"),
        ("[training]\nminutes = -1", r"training\.minutes: -1\.0 is out of range; give a number at least 0"),
        ("[training]\nepochs = 0", r"training\.epochs and training\.minutes are both 0"),
        ("[model]\ntied = true\nunits = 8\nembedding_size = 9", r"model\.tied needs model\.embedding_size = model"),
        ("[corpus]\ndocuments = 'jsonl'", r"needs corpus\.field"),
        ("[corpus]\ndocuments = 'pages'", r"'pages' is not one of stream, lines"),
        ("[corpus]\nsource = []", r"corpus\.source is empty"),
        ("[corpus]\nsource = [1]", r"corpus\.source: \[1\] is not a list of strings"),
        ("[corpus]\nsha256 = ['a', 'b']", r"2 checksums for 1 sources"),
        ("[export]\nformats = ['pickle']", r"'pickle' is not one of"),
        ("[model\nunits = 3", r"r\.toml: is not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line_that_names_file_and_key(toml: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(toml)
    with pytest.raises(UserError, match=said) as caught:
        recipe.load(tmp_path / "r.toml")
    assert "\n" not in str(caught.value).strip()


def test_a_recipe_that_is_not_there_is_said_to_be() -> None:
    with pytest.raises(UserError, match="no such recipe"):
        recipe.load(Path("nowhere.toml"))


def test_a_single_word_is_a_list_of_one_and_a_whole_number_a_number() -> None:
    made = recipe.override(recipe.Recipe(), {"corpus.source": "a.txt", "training.minutes": 3})
    assert made.corpus.source == ("a.txt",)
    assert made.training.minutes == 3.0


def test_auto_may_be_said_and_is_written_as_it_is_said() -> None:
    assert recipe.override(recipe.Recipe(), {"model.units": "auto", "model.dropout": "auto"}) == recipe.Recipe()
    assert recipe.to_tables(recipe.Recipe())["model"]["units"] == "auto"
    assert recipe.override(recipe.Recipe(), {"model.dropout": 0}).model.dropout == 0.0


def test_every_value_says_what_it_is() -> None:
    for name, (_, _, about) in recipe.recipe_fields().items():
        assert len(about["about"]) > 10, name
