"""The benchmark of generation: every side writes by the same weights, whole texts, and ratios are within a round."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import artifact_sides, generation, profile, texts
from keras_lstmgen.models import inference_step, run_directory

pytestmark = pytest.mark.slow

B = 3
IDS = np.array([[5, 7, 270, 9], [6, 6, 8, 5], [11, 4, 5, 5]])


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sides are given: here the metadata and the weights of a small run."""
    made = tmp_path_factory.mktemp("made")
    (made / "keras_lstmgen.json").write_bytes((trained / "keras_lstmgen.json").read_bytes())
    np.savez(made / "weights.npz", allow_pickle=False, **artifact_sides.named_weights(run_directory.load(trained)))
    return made


@pytest.fixture(scope="module")
def logits(trained: Path) -> Any:
    """Of each step, float32 [4, B, V], by our own."""
    weights = run_directory.load(trained).weights
    state, steps = np.zeros((B, inference_step.state_size(weights)), np.float32), []
    for column in IDS.T:
        out, state = inference_step.step(weights, column.astype(np.int32), state)
        steps.append(out.numpy())
    return np.stack(steps)


@pytest.mark.parametrize(
    ("kind", "int8", "form"),
    [
        ("cells", False, ""), ("cells", True, ""), ("layers", False, ""), ("layers", True, ""),
        ("cells", False, "scripted"), ("cells", True, "scripted"), ("layers", True, "scripted"),
    ],
)  # fmt: skip
def test_a_side_in_pytorch_reads_as_our_step_does(folder: Path, logits: Any, kind: str, int8: bool, form: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    from benchmarks import torch_writer

    step, state = torch_writer.stepper(texts.weights(str(folder)), kind, B, int8, form)
    with torch.inference_mode():
        for column, expected in zip(torch.from_numpy(IDS.T), logits, strict=True):
            found, *state = step(column, *state)
            np.testing.assert_allclose(found, expected, atol=0.3 if int8 else 1e-4)
            assert np.corrcoef(found.numpy().ravel(), expected.ravel())[0, 1] > 0.99


def test_keras_step_by_step_reads_as_our_step_does(folder: Path, logits: Any) -> None:
    stateful = artifact_sides.stateful(str(folder), B)
    for column, expected in zip(IDS.T, logits, strict=True):
        np.testing.assert_allclose(stateful(column[:, np.newaxis])[:, 0], expected, atol=1e-4)


def test_a_side_counts_the_characters_of_whole_texts() -> None:
    written: list[int] = []
    rate = texts.rate(written.append, B=4, length=7, seconds=0)
    assert written == [7]
    assert 0 < 4 * 7 / rate < 0.1


def test_a_side_takes_the_number_of_threads_that_it_is_fastest_with() -> None:
    def write(turns: int) -> texts.Write:
        return lambda length: sum(range(length * turns))

    side = texts.writes({1: write(9000), 2: write(10)}, B=1, length=50)
    assert side(0) == 2


def test_a_side_of_ours_writes_and_tells_its_speed(trained: Path) -> None:
    assert artifact_sides.generated(str(trained), "onnx", B)(0.01) > 0
    assert artifact_sides.by_client(str(trained), "tflite")(0.01) > 0


@pytest.mark.parametrize("name", list(profile.WATCHED))
def test_a_profile_counts_the_operators_of_each_token(name: str, trained: Path) -> None:
    """Sigmoids: three a layer, two layers; the tangent twice a layer; one sum of the logits' softmax for a token."""
    short, long = ({row["kind"]: row for row in profiled(name, trained, length)} for length in (4, 12))
    for found in (short, long):
        assert [found[kind]["count"] for kind in ("Sigmoid", "Tanh", "LogSoftmax")] == [6, 4, 1]
        assert all(row["microseconds"] >= 0 for row in found.values())
    assert not profile.OUTER & set(long)
    result = profile.profiled(name, trained, B, 4)
    table = profile.table(result)
    assert len(table.rows) == profile.SHOWN + 2
    assert float(table.rows[-1][1]) == pytest.approx(sum(row["count"] for row in result["kinds"]), abs=0.06)


def profiled(name: str, folder: Path, length: int) -> Any:
    return profile.profiled(name, folder, B, length)["kinds"]


def test_the_sides_of_pytorch_write(folder: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    from benchmarks import torch_writer

    assert torch_writer.written(str(folder), "cells", B, int8=True)(0.01) > 0
    assert torch_writer.weights_alone(1, 0.1)(0.01) > torch_writer.weights_alone(1, 10.0)(0.01) > 0


@pytest.mark.parametrize("kind", ["cells", "layers"])
def test_the_loop_in_torchscript_writes_what_its_steps_make_most_probable(folder: Path, kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    from benchmarks import torch_writer

    step, nothing = torch_writer.stepper(texts.weights(str(folder)), kind, B, False, "")
    start = torch.full((B,), 5)
    only = torch.full((artifact_sides.metadata(str(folder)).vocab_size,), -torch.inf)
    only[5], only[7] = 0.0, 2.0  # two ids are left to draw, one of them some seven times as often
    torch.manual_seed(0)
    with torch.inference_mode():
        drawn = torch_writer.loop(step, nothing, only, start)(40)
        assert drawn.shape == (40, B)
        assert set(drawn.unique().tolist()) == {5, 7}
        ids, state, hits = start, list(nothing), 0.0
        for t in range(40):
            logits, *state = step(ids, *state)
            shares = torch.softmax(logits + only, dim=1)
            hits += float(shares.gather(1, drawn[t][:, None]).sum())
            ids = drawn[t]
    assert hits / (40 * B) > 0.65  # 0.79 is to be expected; of ids drawn with no regard to probabilities 0.5


def test_the_summary_compares_with_the_best_of_pytorch_round_by_round() -> None:
    figures = {
        "TFLite int8": [6.0, 30.0, 8.0],
        "PyTorch LSTMCell": [1.0, 5.0, 1.0],
        "PyTorch LSTMCell int8 scripted": [2.0, 10.0, 4.0],
    }
    result = generation.summary(1, figures) | {"threads": {"TFLite int8": 2}, "failed": {"ONNX": "none"}}
    assert result["rivals"] == {"best": "PyTorch LSTMCell int8 scripted", "float32": "PyTorch LSTMCell"}
    assert result["times"]["best"]["TFLite int8"] == 3.0
    assert result["times"]["float32"]["TFLite int8"] == 6.0
    table = generation.table(result)
    assert table.columns[3:] == ["× PyTorch LSTMCell int8 scripted", "× PyTorch LSTMCell"]
    assert table.rows[0] == ["TFLite int8", "2", "8", "3.00", "6.00"]
    assert table.rows[-1] == ["ONNX", "", "none", "", ""]


def test_one_text_at_a_time_is_written_by_the_clients_too() -> None:
    facts = {"read": 1000}
    one, many = (generation.sides("folder", batch, facts) for batch in (1, 64))
    assert set(many) - set(one) == {"product alone, float32"}
    assert set(one) - set(many) - {"weights read, float32"} == {*generation.CLIENTS, "weights read, int8"}
    assert all("B" in options for name, (_, options) in many.items())
