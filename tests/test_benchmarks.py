"""The benchmarks measure what they say: the same model on every side, turns in rounds, the work as counted by hand."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import growth, keras_sides, measure, python_api, quality, shapes, training, updates, workers
from benchmarks.measure import Table
from benchmarks.shapes import Shape
from benchmarks.workers import Worker, WorkerError
from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.config import recipe
from keras_lstmgen.layers import native_ops
from keras_lstmgen.utils.errors import UserError

pytestmark = pytest.mark.slow

L, H, B, T, V = 2, 7, 3, 5, 11
SHAPE = Shape(L, H, B, T, V)
FIGURES = {
    "ours float32": [30.0, 10.0, 40.0],
    "ours bfloat16": [60.0, 30.0, 50.0],
    "Keras as it is": [10.0, 10.0, 10.0],
    "PyTorch float32": [20.0, 20.0, 20.0],
    "PyTorch bfloat16": [30.0, 20.0, 25.0],
    "peak float32 tensorflow": [4e9, 1e9, 3e9],
    "peak float32 torch": [2e9, 2e9, 2e9],
    "peak bfloat16 tensorflow": [5e9, 5e9, 5e9],
    "peak bfloat16 torch": [6e9, 6e9, 6e9],
}


@pytest.fixture(scope="module")
def ours() -> keras.Sequential:
    return keras_sides.our_model(SHAPE, "float32")


def logits_and_loss(model: keras.Sequential) -> tuple[Any, float]:
    """Of the first two windows, the state carried from the one to the other: what writing and training see."""
    first, second = shapes.windows(SHAPE)[:2]
    model(first[:, :-1])
    *layers, output = model.layers
    features = keras.ops.convert_to_tensor(second[:, :-1])
    for layer in layers:
        features = layer(features)
    logits = output(features)
    given = features if getattr(output, "in_loss", False) else logits
    return np.asarray(logits), float(model.loss(second[:, 1:], given))


def fresh(model: keras.Sequential) -> keras.Sequential:
    for layer in model.layers:
        if isinstance(layer, keras.layers.LSTM):
            layer.reset_states()
    return model


@pytest.mark.parametrize("unroll", [False, True], ids=["as it is", "unrolled"])
def test_keras_s_side_is_our_model(ours: keras.Sequential, unroll: bool) -> None:
    theirs = keras_sides.keras_model(SHAPE, unroll)
    theirs.set_weights(ours.get_weights())
    for mine, other in zip(logits_and_loss(fresh(ours)), logits_and_loss(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_pytorch_s_side_is_our_model(ours: keras.Sequential) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    from benchmarks import torch_side

    network = torch_side.Network(SHAPE).eval()
    layers = [(lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0) for lstm in network.lstms]
    cells = [tensor for layer in layers for tensor in layer]
    embedding, *others = ours.get_weights()
    with torch.no_grad():
        network.embedding.weight.copy_(torch.from_numpy(embedding))
        for tensor, values in zip([*cells, network.output.weight, network.output.bias], others, strict=True):
            tensor.copy_(torch.from_numpy(values.T))  # PyTorch's gates have Keras's order, its matrices are transposed
        for lstm in network.lstms:
            lstm.bias_hh_l0.zero_()  # its second bias
    states = torch_side.zeros(SHAPE)
    for window in torch.from_numpy(shapes.windows(SHAPE)[:2]).long().transpose(1, 2):
        logits, states = network(window[:-1], states)
    expected, loss = logits_and_loss(fresh(ours))
    np.testing.assert_allclose(logits.detach().numpy().transpose(1, 0, 2), expected, atol=1e-4)
    found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[1:].flatten())
    assert float(found.detach()) == pytest.approx(loss, abs=1e-4)


def test_pytorch_s_mask_is_one_for_all_steps() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    from benchmarks import torch_side

    torch.manual_seed(0)
    masks = torch_side.Network(SHAPE).train().dropped(torch.ones(T, B, 400)).numpy()
    assert (masks == masks[:1]).all()
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / (1 - shapes.DROPOUT))}
    assert (masks == 0).mean() == pytest.approx(shapes.DROPOUT, abs=0.03)


@pytest.mark.parametrize("kind", ["ours", "Keras"])
def test_a_side_in_tensorflow_trains_whole_steps_and_tells_its_speed(kind: str, ours: keras.Sequential) -> None:
    model = ours if kind == "ours" else keras_sides.keras_model(SHAPE, unroll=False)
    ids = shapes.windows(SHAPE)
    side = keras_sides.trained(model, tf.data.Dataset.from_tensor_slices((ids[:, :, :-1], ids[:, :, 1:])), SHAPE)
    before, steps = model.get_weights(), int(model.optimizer.iterations)
    tells_its_speed(side)
    assert int(model.optimizer.iterations) == steps + 4
    assert all((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


@pytest.mark.filterwarnings("ignore:CUDA initialization")  # of a build for GPUs, on a machine without
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pytorch_s_side_trains_and_tells_its_speed(precision: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    if precision == "bfloat16" and "avx512f" not in measure.instructions():
        pytest.skip("PyTorch's LSTM knows no bfloat16 on this processor")
    from benchmarks import torch_side

    tells_its_speed(torch_side.train(list(SHAPE), precision))


def tells_its_speed(side: Callable[[int], float]) -> None:
    """What it says to have taken for four steps is less than it took, and not nothing of it."""
    began = time.perf_counter()
    rate = side(4)
    seconds = time.perf_counter() - began
    assert 0.05 * seconds < 4 * B * T / rate <= seconds


def test_the_work_of_a_token_is_what_a_count_by_hand_gives(ours: keras.Sequential) -> None:
    """2 layers of 512 units, 65 symbols: W and U [512, 2048] twice, the output [512, 65]; 6 operations a weight."""
    assert shapes.flop_per_token(Shape(2, 512, 64, 128)) == 6 * (2 * 2 * 512 * 2048 + 512 * 65) == 25_365_504
    matrices = [weight.shape for weight in ours.weights[1:] if len(weight.shape) == 2]  # without the embedding
    assert shapes.flop_per_token(SHAPE) == 6 * sum(rows * columns for rows, columns in matrices)


@given(st.builds(Shape, *(st.integers(1, 10**5) for _ in range(5))))
def test_a_shape_reads_as_it_is_written(shape: Shape) -> None:
    assert shapes.parse(str(shape)) == shape


@pytest.mark.parametrize("text", ["", "512", "1x512", "1x512,32", "0x512,32,64", "1x512,32,64,65,1", "1x512,32,6.4"])
def test_what_is_no_shape_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        training.main(["--shapes", text])
    assert refusal.value.code == 2
    assert "--shapes" in capsys.readouterr().err


def test_sides_take_turns_and_every_other_round_goes_backwards() -> None:
    asked: list[str] = []

    def side(name: str) -> Callable[[], float]:
        def turn() -> float:
            asked.append(name)
            return len(asked)

        return turn

    figures = measure.interleaved({name: side(name) for name in "abc"}, 3)
    assert "".join(asked) == "abccbaabc"
    assert figures == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


@given(st.lists(st.tuples(*[st.floats(0.1, 10)] * 3), min_size=1))
def test_what_slows_a_whole_round_leaves_the_ratio(rounds: list[tuple[float, ...]]) -> None:
    one, other, slow = zip(*rounds, strict=True)
    figures = {"one": one, "other": other}
    slowed = {name: [rate * factor for rate, factor in zip(row, slow, strict=True)] for name, row in figures.items()}
    expected = statistics.median(a / b for a, b in zip(one, other, strict=True))
    assert measure.ratio(figures, "one", "other") == expected
    assert measure.ratio(slowed, "one", "other") == pytest.approx(expected)


def test_a_summary_has_medians_ratios_and_shares_of_the_peak() -> None:
    """Of each round: the larger peak of the two libraries, and the ratio; then the median."""
    flop = shapes.flop_per_token(SHAPE)
    result = training.summary(SHAPE, FIGURES)
    assert result["median"]["ours bfloat16"] == 50
    assert result["peak_gflops"] == {"float32": 3.0, "bfloat16": 6.0}
    assert set(result["times"]) == {"PyTorch bfloat16", "Keras as it is"}
    assert result["times"]["PyTorch bfloat16"]["ours float32"] == 1.0  # of 30/30, 10/20, 40/25
    assert result["times"]["PyTorch bfloat16"]["ours bfloat16"] == 2.0
    assert result["times"]["Keras as it is"]["ours bfloat16"] == 5.0
    assert result["spread"]["PyTorch bfloat16"]["ours bfloat16"] == [1.5, 2.0]
    assert result["times_best_of_round"]["ours float32"] == 1.0
    assert measure.ratios(FIGURES, "Keras as it is", ["ours float32", "PyTorch float32"]) == [1 / 3, 1 / 2, 1 / 4]
    assert result["share_of_peak"]["ours float32"] == flop * 30 / 4e9  # of 30/4, 10/2, 40/3
    assert result["share_of_peak"]["PyTorch bfloat16"] == flop * 25 / 6e9


def test_the_table_of_a_shape_shows_them_and_what_did_not_start() -> None:
    more = {"start_seconds": dict.fromkeys(FIGURES, 12.3), "failed": {"PyTorch compiled": "BackendError: no"}}
    table = training.table(training.summary(SHAPE, FIGURES) | more)
    rows = {row[0]: row[1:] for row in table.rows}
    ends = ", lowest to highest"
    assert table.columns[-3:] == [
        f"× PyTorch bfloat16{ends}", f"× Keras as it is{ends}", "× PyTorch's best of each round",
    ]  # fmt: skip
    assert rows["ours bfloat16"][:3] == ["50", "30 to 60", "12"]
    assert rows["ours bfloat16"][-3:] == ["2.00 (1.50 to 2.00)", "5.00 (3.00 to 6.00)", "2.00"]
    assert rows["PyTorch compiled"][:2] == ["did not start", "BackendError: no"]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_results_are_kept_as_json_and_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("Speeds", ("side", "tokens/s"), [["ours", "1,234"], ["[other]", "5"]])
    measure.publish("speeds", {"peak_gflops": {"float32": 300.0}, "rates": [1.5]}, [table], tmp_path)
    kept = json.loads((tmp_path / "speeds.json").read_text())
    assert kept["rates"] == [1.5]
    assert kept["machine"]["cores"] >= 1
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    assert set(kept["machine"]["instructions"]) == set(measure.INSTRUCTIONS) & set(flags)
    assert kept["machine"]["versions"]["keras"] == keras.__version__
    page = (tmp_path / "speeds.md").read_text()
    assert "| side | tokens/s |\n|---|---:|\n| ours | 1,234 |\n| [other] | 5 |\n" in page
    for text in (page, capsys.readouterr().out):
        assert "Speeds" in text
        assert "[other]" in text
        assert "300 GFLOP/s float32" in text
        assert " ".join(kept["machine"]["instructions"]) in text


def test_a_worker_answers_when_asked_and_stands_still_in_between() -> None:
    with closing(Worker("unittest.mock:Mock", return_value=7)) as worker:
        assert [worker.ask(3), state(worker), worker.ask(5), state(worker)] == [7, "T", 7, "T"]


def state(worker: Worker) -> str:
    """What the system says of its process: T, stopped."""
    for _ in range(100):
        if (found := Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(") ")[2][0]) == "T":
            break
        time.sleep(0.01)
    return found


def test_a_turn_has_as_many_steps_as_fill_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a side that gives 50 tokens a second for few steps and 100 for many: 2 seconds of 10 tokens a step are 20."""
    worker = Worker.__new__(Worker)
    asked: list[float] = []

    def ask(steps: float) -> float:
        asked.append(steps)
        return 50 if steps < 5 else 100

    monkeypatch.setattr(worker, "ask", ask)
    worker.turn(2, per_step=10)()
    assert asked == [2, 10, 20]


def test_a_worker_that_fails_says_why() -> None:
    with pytest.raises(WorkerError, match=r"unittest.mock:Knock: AttributeError: .* no attribute 'Knock'"):
        Worker("unittest.mock:Knock")


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux has for it")
def test_a_benchmark_that_is_killed_leaves_no_worker_behind() -> None:
    code = "from benchmarks.workers import *; print(Worker('unittest.mock:Mock').process.pid, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=workers.ROOT) as benchmark:
        assert benchmark.stdout
        worker = Path("/proc", benchmark.stdout.readline().decode().strip())
        assert worker.is_dir()
        benchmark.kill()
    deadline = time.monotonic() + 20
    with suppress(FileNotFoundError, ProcessLookupError):  # gone while it is looked at
        while "(zombie)" not in (worker / "status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_side_whose_precision_is_not_there_says_so() -> None:
    if native_ops.has_bfloat16():
        pytest.skip("this processor multiplies bfloat16")
    with pytest.raises(UserError, match="does not multiply bfloat16"):
        keras_sides.ours([*SHAPE], "bfloat16")


def test_without_a_gpu_its_benchmark_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'bench')")
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert training.main(["--device", "gpu"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "benchmarks.training: TensorFlow sees no GPU on this machine; nothing was measured"
    ]


def test_what_ran_is_read_from_the_profiler_s_trace() -> None:
    product = tf.function(lambda: tf.linalg.matmul(tf.random.normal((50, 50)), tf.random.normal((50, 50))))
    assert keras_sides.traced(product, rb"MatMul") == ["MatMul"]
    assert keras_sides.traced(product, keras_sides.CUDNN) == []


def test_an_update_is_watched_part_by_part() -> None:
    result = updates.watched(Shape(2, 5, 3, 4, 7), "float32")
    assert result["milliseconds"] > 0
    assert list(result["parts"]) == list(updates.PARTS)
    assert all(milliseconds > 0 for milliseconds in result["parts"].values())
    assert [row[0] for row in updates.table(result).rows] == list(updates.PARTS)


def test_a_part_is_found_by_an_operator_s_name_and_no_event_but_operators_has_one() -> None:
    events = [
        ("StatefulPartitionedCall/lstmgen_1/lstm_2_1/lstm_forward:PyFuncStateless", 2.0),
        ("StatefulPartitionedCall/lstm_backward_1:PyFuncStateless", 3.0),
        ("StatefulPartitionedCall/compile_loss/softmax_forward:PyFuncStateless", 11.0),
        ("StatefulPartitionedCall/gradient_tape/compile_loss/MatMul/MatMul:MatMul", 13.0),
        ("StatefulPartitionedCall/adam/mul_5:Mul", 5.0),
        ("StatefulPartitionedCall/Cast:Cast", 7.0),
        ("EagerExecute", 100.0),
    ]
    parts = {part: milliseconds for part, milliseconds in updates.summed(events).items() if milliseconds}
    assert parts == {
        "LSTM's code, forward": 2.0, "LSTM's code, backward": 3.0, "softmax": 11.0, "Adam and clipping": 5.0,
        "output's products and casts": 13.0, "other operators": 7.0,
    }  # fmt: skip


def test_a_corpus_has_its_size_and_no_two_lines_alike(tmp_path: Path) -> None:
    growth.write_corpus(tmp_path / "text", 0.9)
    text = (tmp_path / "text").read_bytes()
    assert 900_000 <= len(text) < 901_000
    lines = text.splitlines()
    assert len(lines) == len(set(lines))
    assert len({line.partition(b" ")[2] for line in lines}) < 0.9 * len(lines)  # which without numbers are alike


def test_growth_measures_each_work_on_a_corpus_and_leaves_none_of_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "WORK", {"encode": growth.WORK["encode"]})  # a process each takes its time
    (row,) = growth.of_corpus(0.1, tmp_path / "small")
    assert row["tokens"] == pytest.approx(90_000, rel=0.05)  # nine tenths, a character a token
    assert 20 < row["peak_mb"] < 1_000
    assert not list((tmp_path / "small").rglob("*.ids"))


def test_growth_reads_each_token_of_whole_windows_once(tmp_path: Path) -> None:
    growth.write_corpus(tmp_path / "text", 0.1)
    growth.encoded(str(tmp_path / "text"), str(tmp_path))(0)
    row = growth.one_pass(str(tmp_path / "text"), str(tmp_path))(0)
    assert row["tokens"] == 10 * growth.B * growth.T  # of 90,000
    assert row["peak_mb"] > row["files_mb"] > 0


def test_growth_waits_for_commands_that_there_are(tmp_path: Path) -> None:
    for name, words in growth.commands(tmp_path).items():
        if name.endswith("--help"):
            with pytest.raises(SystemExit, match="0"):
                build_parser().parse_args(words)
        else:
            assert build_parser().parse_args(words).runs == tmp_path
    seconds = growth.startup({"help": ["--help"]}, 2)
    assert all(0.01 < value < 10 for value in seconds["help"])


def test_growth_waits_for_verbs_that_open_what_is_left_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = "train, 3 seconds of updates"
    monkeypatch.setattr(growth, "WORK", {train: growth.WORK[train]})
    growth.of_corpus(0.1, tmp_path / "runs")
    opening = {name: words for name, words in growth.commands(tmp_path / "runs").items() if growth.RUN in words}
    assert {words[0] for words in opening.values()} == {"info", "generate", "evaluate"}
    assert growth.startup(opening, 1).keys() == opening.keys()  # where one fails, so does startup


def test_growth_of_a_dimension_is_told_against_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    group = [Shape(1, H, B, T) for H in (7, 14)]
    monkeypatch.setattr(growth, "SHAPES", {"H": group})
    table = growth.speeds_table(
        "H", dict(zip(group, ([1_000.0, 2_000.0, 9_000.0], [500.0, 400.0, 600.0]), strict=True))
    )
    assert table.title == f"Growth of H: L 1, B {B}, T {T}, V 65"
    assert table.rows == [["H = 7", "2,000", "1.00"], ["H = 14", "500", "0.25"]]


def test_quality_trains_for_the_minutes_and_gives_the_loss_of_evaluate(text: Path, tmp_path: Path) -> None:
    tables = {"corpus.source": [str(text)], "model.units": 8, "model.embedding_size": 4, "model.layers": 1}
    settings = recipe.override(recipe.Recipe(), tables | {"training.minutes": 30.0, "training.epochs": 0})
    (tmp_path / "small.toml").write_text(recipe.to_toml(settings), encoding="utf-8")
    run = quality.measured(*quality.chosen(tmp_path / "small.toml", 0.02), 0.02, tmp_path / "runs")
    assert 0.02 <= run["minutes_taken"] < 0.2
    assert 1 < run["loss"]["nats_per_token"] < 6
    quality.plot([run], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    (row,) = quality.table([run]).rows
    assert f"{run['loss']['nats_per_token']:.4f}" in row


def test_a_run_measured_anew_takes_the_place_of_the_old_one() -> None:
    old, new = (
        [{"minutes": 1.0, "n": 1}, {"minutes": 9.0, "n": 2}],
        [{"minutes": 3.0, "n": 3}, {"minutes": 1.0, "n": 4}],
    )
    assert [run["n"] for run in quality.together(old, new)] == [4, 3, 2]


def test_the_time_to_a_loss_is_that_of_the_first_validation_which_has_it() -> None:
    history = [{"seconds": 10.0 * k, "val_loss": loss} for k, loss in enumerate((2.0, 1.5, 1.4, 1.45, 1.3))]
    assert [quality.seconds_until(history, nats) for nats in (1.5, 1.45, 1.2)] == [10, 20, None]
    run = {"recipe": "a.toml", "members": 1, "minutes": 3.0, "history": history}
    assert quality.until_table([run], 1.45).rows == [["a.toml", "1", "3", "20"]]
    assert quality.until_table([run], 1.0).rows == [["a.toml", "1", "3", "never"]]


def test_short_trainings_are_of_one_model_and_long_ones_of_several() -> None:
    best = recipe.load(quality.LONG)
    assert [quality.chosen(None, minutes)[1] for minutes in quality.MINUTES] == [1, 1, 2, 5]
    assert quality.chosen(None, best.training.minutes) == (quality.LONG, best.model.members)


def test_the_programs_with_the_python_api_run_in_new_processes_and_are_in_the_table(tmp_path: Path) -> None:
    assert python_api.main(["--rounds", "1", "--documents", "9", "--results", str(tmp_path)]) == 0
    seconds = json.loads((tmp_path / "python_api.json").read_text())["seconds"]
    assert list(seconds) == list(python_api.PROGRAMS)
    assert all(value > 0 for (value,) in seconds.values())
    rows = python_api.table(seconds).rows
    assert [row[1] for row in rows] == [str(python_api.code(name).count("\n")) for name in seconds]
