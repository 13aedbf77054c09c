"""Training with operands in bfloat16 learns what training in float32 learns."""

from dataclasses import replace
from pathlib import Path

import pytest

from keras_lstmgen import files, kernel, recipe, training
from keras_lstmgen.errors import UserError


@pytest.mark.skipif(not kernel.has_bfloat16(), reason="this processor does not multiply bfloat16")
def test_both_precisions_end_at_the_same_loss(tmp_path: Path) -> None:
    """On half a megabyte of prose: where a model learns a small text by heart, any two seeds end further apart."""
    values = {
        "model.embedding_size": 32, "model.units": 64, "model.layers": 1, "model.dropout": 0.1,
        "training.batch_size": 16, "training.window": 32, "training.epochs": 1, "training.learning_rate": 0.01,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), values)
    losses = {}
    for precision in ("float32", "bfloat16"):
        chosen = replace(settings, training=replace(settings.training, precision=precision))
        metrics = files.read_json(training.train(chosen, tmp_path, precision) / "metrics.json")
        losses[precision] = metrics["validation"]["nats_per_token"]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], abs=0.01)
    assert losses["float32"] < 2.0  # it did learn: the frequencies of the letters alone give 3.1


def test_bfloat16_on_a_processor_without_it_is_refused_in_one_line(
    settings: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "has_bfloat16", lambda: False)
    settings = recipe.override(settings, {"training.precision": "bfloat16"})
    with pytest.raises(UserError, match=r"training\.precision: .* give auto or float32"):
        training.train(settings, tmp_path, "run")
    assert not list(tmp_path.glob("run*"))
