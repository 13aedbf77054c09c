"""The ablation turns over one option a row, trains the rest alike, and tells means and differences."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import ablation
from keras_lstmgen.config import recipe

pytestmark = pytest.mark.slow


def test_what_the_base_has_is_turned_off_and_what_it_has_not_is_turned_on() -> None:
    base = recipe.override(recipe.Recipe(), {"model.dropout": 0.5, "model.weight_drop": 0.2, "training.average": 0})
    turned = ablation.turned(recipe.to_tables(base), list(ablation.OPTIONS))
    assert turned["model.dropout 0.0"] == {"model.dropout": 0.0}
    assert turned["model.weight_drop 0.0"] == {"model.weight_drop": 0.0}
    assert turned["model.embedding_dropout 0.1"] == {"model.embedding_dropout": 0.1}
    assert turned["model.input_dropout 0.0"] == {"model.input_dropout": 0.0}
    assert turned["training.random_offsets false"] == {"training.random_offsets": False}
    assert turned["training.average 50"] == {"training.average": 50}
    assert len(turned) == len(ablation.OPTIONS)
    for change in turned.values():
        assert recipe.override(base, change) != base


def test_the_table_has_means_over_seeds_and_the_difference_to_the_base() -> None:
    def run(validation: float, training: float, minutes: float) -> dict[str, float]:
        return {"validation": validation, "training": training, "minutes": minutes}

    rows = {"base": [run(1.5, 1.2, 1), run(1.7, 1.4, 3)], "other": [run(1.4, 1.3, 2), run(1.5, 1.5, 2)]}
    table = ablation.table("small", 4, rows)
    assert table.rows == [["base", "1.6000", "", "1.3000", "2.0"], ["other", "1.4500", "-0.1500", "1.4000", "2.0"]]
    assert table.title == "small, 4 epochs, mean of 2"


def test_rows_of_the_same_base_stay_and_those_of_another_go(tmp_path: Path) -> None:
    def measured(base: float, **rows: float) -> dict[str, object]:
        of_base = {"base": [{"validation": base}]}
        return {
            "recipe": "a.toml",
            "epochs": 2,
            "seeds": [0],
            "rows": of_base | {name: [n] for name, n in rows.items()},
        }

    path = tmp_path / "ablation_a.json"
    new = measured(1.5, second=2, third=3)
    assert ablation.together(path, new) == new
    path.write_text(json.dumps(measured(1.5, first=1, second=9)), encoding="utf-8")
    assert ablation.together(path, new) == measured(1.5, first=1, second=2, third=3)
    path.write_text(json.dumps(measured(1.6, first=1)), encoding="utf-8")
    assert ablation.together(path, new) == new


def test_each_row_is_a_training_of_its_own(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = {
        "corpus.source": str(text), "model.units": 9, "model.embedding_size": 4, "model.layers": 1,
        "model.dropout": 0.0, "training.batch_size": 8, "training.window": 20,
    }  # fmt: skip
    (tmp_path / "tiny.toml").write_text(recipe.to_toml(recipe.override(recipe.Recipe(), values)), encoding="utf-8")
    words = ["--recipe", str(tmp_path / "tiny.toml"), "--epochs", "1", "--seeds", "4", "--only", "training.average"]
    assert ablation.main([*words, "--results", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "ablation_tiny.json").read_text())
    base, averaged = results["rows"]["base"][0], results["rows"]["training.average 50"][0]
    assert base["seed"] == averaged["seed"] == 4
    assert base["training"] == averaged["training"]  # it trains alike, and ...
    assert base["validation"] != averaged["validation"]  # ... is measured of other weights
    assert len(base["history"]) == 1
    assert "| base |" in (tmp_path / "ablation_tiny.md").read_text()
    assert "tiny, 1 epochs, mean of 1" in capfd.readouterr().out
