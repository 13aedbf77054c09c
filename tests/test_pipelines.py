"""Every recipe in the repository can be read, and the default is the quickstart."""

from pathlib import Path

import pytest

from keras_lstmgen import defaults, recipe
from keras_lstmgen.encoding import encode

PIPELINES = Path(__file__).parents[1] / "pipelines"
RECIPES = sorted(PIPELINES.glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_repository_is_valid_and_gives_its_reasons(path: Path) -> None:
    recipe.load(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert sum("#" in line for line in lines if "=" in line) >= 5
    assert lines[-1].startswith("# "), "the expected result stands at the foot"


def test_the_quickstart_is_what_train_does_without_arguments(tmp_path: Path) -> None:
    bare = recipe.Recipe()
    encoded = encode(bare, tmp_path)
    values = defaults.chosen(bare, len(encoded.train), encoded.tokenizer.vocab_size)
    assert recipe.load(PIPELINES / "quickstart.toml") == recipe.override(bare, values)
