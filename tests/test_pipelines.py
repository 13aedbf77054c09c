"""Every recipe in the repository can be read, and the default is the quickstart."""

from itertools import islice
from pathlib import Path

import pytest

from keras_lstmgen.config import auto_sizes, recipe
from keras_lstmgen.data import sources, splits
from keras_lstmgen.data.token_cache import encode

PIPELINES = Path(__file__).parents[1] / "pipelines"
RECIPES = sorted(PIPELINES.glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_repository_is_valid_and_gives_its_reasons(path: Path) -> None:
    recipe.load(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert sum("#" in line for line in lines if "=" in line) >= 5
    assert lines[-1].startswith("# "), "the expected result stands at the foot"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_corpus_of_a_recipe_has_documents_of_its_kind_to_train_and_to_validate_on(path: Path) -> None:
    settings = recipe.load(path).corpus
    if not sources.is_available(settings):
        pytest.skip("its corpus is not here (KERAS_LSTMGEN_DATA)")
    for split in ("train", "validation"):
        documents = list(islice(splits.pieces(settings, split), 3))
        assert documents
        assert all(document.strip() for document in documents)
        assert len(documents) == 3 or settings.documents == "stream"  # whose pieces may be few
        assert not settings.is_pairs or all("\n" in document for document in documents)


def test_the_quickstart_is_what_train_does_without_arguments(tmp_path: Path) -> None:
    bare = recipe.Recipe()
    encoded = encode(bare, tmp_path)
    values = auto_sizes.choose(bare, len(encoded.train), encoded.tokenizer.vocab_size)
    assert recipe.load(PIPELINES / "quickstart.toml") == recipe.override(bare, values)
