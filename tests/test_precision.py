"""Training with operands in bfloat16 learns what training in float32 learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.files import atomic
from keras_lstmgen.layers import compute_dtype, lstm, native_ops
from keras_lstmgen.training import input_pipeline, trainer
from keras_lstmgen.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
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
        metrics = atomic.read_json(trainer.train(chosen, tmp_path, precision).folder / "metrics.json")
        losses[precision] = metrics["validation"]["nats_per_token"]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], abs=0.01)
    assert losses["float32"] < 2.0  # it did learn: the frequencies of the letters alone give 3.1


def test_bfloat16_on_a_processor_without_it_is_refused_in_one_line(
    settings: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_ops, "has_bfloat16", lambda: False)
    settings = recipe.override(settings, {"training.precision": "bfloat16"})
    with pytest.raises(UserError, match=r"training\.precision: .* give auto or float32"):
        trainer.train(settings, tmp_path, "run")
    assert not list(tmp_path.glob("run*"))


def test_on_a_gpu_bfloat16_is_a_policy_of_the_lstm_layers_and_the_loss_stays_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No GPU is asked for: Keras's loop computes here what cuDNN would. It steps as float32 does, within rounding."""
    monkeypatch.setattr(compute_dtype, "has_gpu", lambda: True)
    monkeypatch.setattr(native_ops, "has_bfloat16", lambda: False)
    B, T, V = 3, 5, 11
    values = {
        "model.embedding_size": 6, "model.units": 7, "model.layers": 2, "model.dropout": 0.0, "model.weight_drop": 0.2,
        "training.batch_size": B, "training.window": T,
    }  # fmt: skip
    ids = np.random.default_rng(0).integers(0, V, (B, T + 1)).astype(np.int32)
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = recipe.override(recipe.Recipe(), values | {"training.precision": precision})
        model = trainer.compile_model(settings, np.ones(V, np.int64))
        logits = model(ids[:, :-1])
        assert logits.dtype == "float32"
        assert {weight.dtype for weight in model.weights if "seed" not in weight.path} == {"float32"}
        losses[precision] = [model.train_on_batch(ids[:, :-1], ids[:, 1:]) for _ in range(4)]
        lstms = [layer for layer in model.layers if isinstance(layer, lstm.LSTM)]
        assert {layer.compute_dtype for layer in lstms} == {precision}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


def test_with_a_gpu_a_processor_without_bfloat16_is_no_reason_to_refuse_it(
    settings: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_ops, "has_bfloat16", lambda: False)
    monkeypatch.setattr(compute_dtype, "has_gpu", lambda: True)
    input_pipeline.load(recipe.override(settings, {"training.precision": "bfloat16"}), tmp_path)
