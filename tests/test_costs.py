"""What is computed of large trainings follows from the sizes and the options, as by hand."""

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import costs
from keras_lstmgen.config import recipe
from keras_lstmgen.models.builder import build

pytestmark = pytest.mark.slow

H, V, B, T = 6, 11, 3, 5


def options(**values: float) -> argparse.Namespace:
    """A tiny model on slow machines."""
    small = {"units": H, "vocab_size": V, "rows": B, "window": T, "tflops": 1e-6, "share": 0.5, "link": 1e-6}
    return argparse.Namespace(**small, network=1e-7, **values)


def test_the_model_has_the_weights_that_the_package_builds() -> None:
    built = build(recipe.Model(embedding_size=H, units=H, layers=2, dropout=0.0, tied=True), V)
    assert costs.weights(options()) == built.count_params()


def test_an_update_is_computed_and_then_sent_round_a_ring() -> None:
    one, eight, many = (costs.update(options(), N) for N in (1, 8, 16))
    assert (one.tokens, eight.tokens, one.moved) == (B * T, 8 * B * T, 0)
    flop = 6 * (2 * (H * 4 * H + H * 4 * H) + V * H)  # a token's: W and U of two layers, and the output
    assert one.computing == eight.computing == pytest.approx(B * T * flop / (1e6 * 0.5))
    gradients = 4 * costs.weights(options())
    assert eight.moved == pytest.approx(gradients * 2 * 7 / 8)
    assert eight.moving == pytest.approx(eight.moved / 1e3)
    assert many.moving == pytest.approx(many.moved / 1e2)  # over the network, which is slower


def test_the_tables_are_written_with_what_they_assume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--terabytes", "2", "--bytes-per-token", "5", "--gpus", "1", "4", "--texts", "300", "--reading", "7"]
    assert costs.main([*words, "--results", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "costs.json").read_text())
    assert (written["assumed"]["terabytes"], written["assumed"]["gpus"]) == (2.0, [1, 4])
    corpus, training, serving = written["tables"]
    assert corpus["rows"][0] == ["tokens", "400 billion"]
    assert [row[0] for row in training["rows"]] == ["1", "4", "this machine, measured"]
    assert serving["title"].startswith("300 texts in progress")
    assert "assumed: 989 TFLOP/s a GPU" in (tmp_path / "costs.md").read_text()
    assert "2 TB of text" in capfd.readouterr().out
