"""The benchmark of the fused LSTM: both graphs read alike, the operator is there, and its state cannot be had."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import fused
from keras_lstmgen.models import inference_step

H = 12
OPERATOR = "UNIDIRECTIONAL_SEQUENCE_LSTM"


@pytest.fixture(scope="module")
def weights() -> inference_step.Weights:
    return fused.made(H)


@pytest.fixture(scope="module")
def ids() -> Any:
    return next(fused.examples())[0]


def operators(content: bytes) -> set[str]:
    return {operator["op_name"] for operator in Interpreter(model_content=content)._get_ops_details()}


def converted(graph: fused.Graph) -> bytes:
    return fused.converted(graph, *fused.PRECISIONS["float32"])


def test_both_graphs_give_the_log_probabilities_of_tensorflow(weights: inference_step.Weights, ids: Any) -> None:
    expected, _ = inference_step.score(weights, ids, tf.zeros((1, 2 * H)))
    for graph in (fused.ours, fused.fused):
        np.testing.assert_allclose(graph(weights, ids)["logprobs"], expected, atol=1e-5)
        content = converted(lambda ids, graph=graph: graph(weights, ids))  # type: ignore[misc]
        assert (OPERATOR in operators(content)) == (graph is fused.fused)
        np.testing.assert_allclose(fused.opened(content)(ids), expected, atol=1e-5)


def test_the_fused_operator_goes_on_where_the_last_call_ended(weights: inference_step.Weights, ids: Any) -> None:
    """So that ``score`` of the contract, which is given the state, cannot be made of it."""
    interpreter = Interpreter(model_content=converted(lambda ids: fused.fused(weights, ids)))
    run = interpreter.get_signature_runner()
    first, second = (np.copy(run(ids=ids)["logprobs"]) for _ in range(2))
    state = inference_step.score(weights, ids, tf.zeros((1, 2 * H)))[1]
    expected, _ = inference_step.score(weights, ids, state)
    np.testing.assert_allclose(second, expected, atol=1e-5)
    assert np.abs(second - first).max() > 1e-3


def test_where_the_state_is_asked_for_there_is_no_fused_operator(weights: inference_step.Weights) -> None:
    (cell,), nothing = weights.cells, tf.zeros((1, H))

    def graph(ids: Any) -> dict[str, Any]:
        x = tf.gather(weights.embedding, ids)
        _, _, h, c, _ = fused.lstm()(x, nothing, nothing, *map(tf.constant, cell))
        return {"h": h, "c": c}

    assert OPERATOR not in operators(converted(graph))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*tf.lite.Interpreter is deprecated:UserWarning")  # the converter's own
def test_the_command_measures_all_sides_and_tells_what_does_not_convert(tmp_path: Path) -> None:
    words = ["--units", str(H), "--rounds", "2", "--seconds", "0.01", "--results", str(tmp_path)]
    assert fused.main(words) == 0
    found = json.loads((tmp_path / "fused.json").read_text(encoding="utf-8"))
    assert set(found["tokens_per_second"]) >= {
        f"{name}, {how}" for name in fused.GRAPHS for how in ("float32", "weights int8", "all int8")
    }
    assert all(rate > 0 for rates in found["tokens_per_second"].values() for rate in rates)
    assert found["difference"]["fused, float32"] < 1e-5 < found["difference"]["fused, all int8"]
    assert OPERATOR in found["failed"]["fused, weights int8, all else int16"]
    assert "| fused, weights int8, all else int16: Quantization " in (tmp_path / "fused.md").read_text(encoding="utf-8")
