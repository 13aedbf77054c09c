"""TFLite with rounded weights: small, as good as float32 within its bound, and the same text each time."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_lstmgen.cli.verbs.export import print_results
from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run, graphs, tflite, verify
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import sampling
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
import export.contract as kit
from export.tflite import generate as client

pytestmark = pytest.mark.slow

# Tensors of fewer than 1,024 numbers are left as they are, so that the model has to be larger than that of other tests.
SIZES = {"model.embedding_size": 40, "model.units": 56, "model.layers": 2, "training.epochs": 3}
FLOAT32, FLOAT16, INT8 = (tflite.EXPORTERS[name] for name in ("tflite", "tflite_float16", "tflite_int8"))
ASKED = recipe.Export(formats=("tflite", "tflite_float16", "tflite_int8"), texts=12, tokens=30)


@pytest.fixture(scope="module")
def quantized(settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its two TFLite files."""
    folder = trainer.train(recipe.override(settings, SIZES), tmp_path_factory.mktemp("runs"), "eight").folder
    export_run.export(folder, ASKED)
    return folder


@pytest.fixture
def moved(quantized: Path, tmp_path: Path) -> Path:
    """The run, to be changed at will."""
    return Path(shutil.copytree(quantized, tmp_path / "moved"))


def entry(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return dict(record["artifacts"]["tflite_int8"])


def nats(folder: Path, call: Call) -> float:
    """The loss on the last 1,500 characters of the corpus, which were held out, by ``score``."""
    model = run_directory.load(folder)
    text = Path(model.recipe.corpus.source[0]).read_text(encoding="utf-8")[-1501:]
    ids = np.array([model.tokenizer.encode(text)], np.int32)
    state = np.zeros((1, model.metadata.state_size), np.float32)
    return -float(call("score", ids=ids, state=state)["logprobs"].mean())


def test_the_loss_on_held_out_text_is_that_of_float32_within_the_bound(quantized: Path) -> None:
    said = entry(quantized)
    assert said["loss_text"] == "held-out text"
    assert INT8.max_loss_increase == 0.02
    assert abs(said["loss_difference"]) < INT8.max_loss_increase
    found = nats(quantized, INT8.open_artifact(quantized)) - nats(quantized, FLOAT32.open_artifact(quantized))
    assert found != 0
    assert found == pytest.approx(said["loss_difference"], abs=2e-3)


def test_sixteen_bits_cost_next_to_nothing_and_halve_the_file(quantized: Path) -> None:
    found = nats(quantized, FLOAT16.open_artifact(quantized)) - nats(quantized, FLOAT32.open_artifact(quantized))
    assert FLOAT16.max_loss_increase == 0.001
    assert 0 < abs(found) < FLOAT16.max_loss_increase
    weights = sum(int(np.prod(weight.shape)) for weight in run_directory.load(quantized).model.weights)
    saved = FLOAT32.size(quantized) - FLOAT16.size(quantized)
    assert saved == pytest.approx(2 * weights, rel=0.2)


def test_size_and_speed_stand_in_the_record(quantized: Path) -> None:
    said = entry(quantized)
    assert said["path"] == "tflite/model_int8.tflite"
    assert said["bytes"] == (quantized / said["path"]).stat().st_size
    assert said["tokens_per_second"] > 0
    assert (said["tried"], said["reasons"]) == (12, [])


def buffers(folder: Path, kind: int) -> dict[int, int]:
    """Bytes of each buffer that tensors of a type have, by its number."""
    content = flatbuffer_utils.read_model(str(folder / INT8.path))
    numbers = {tensor.buffer for graph in content.subgraphs for tensor in graph.tensors if tensor.type == kind}
    held = {number: content.buffers[number].data for number in numbers}
    return {number: len(data) for number, data in held.items() if data is not None}


def test_every_matrix_is_held_once_in_eight_bits_for_all_signatures(quantized: Path) -> None:
    weights = graphs.folded(run_directory.load(quantized).weights)
    matrices = [weights.embedding, weights.output, *(cell.recurrent for cell in weights.cells)]
    matrices += [cell.kernel for cell in weights.cells if cell.kernel is not None]
    assert sum(buffers(quantized, schema.TensorType.INT8).values()) == sum(np.prod(matrix.shape) for matrix in matrices)
    biases = [weights.output_bias, *(cell.bias for cell in weights.cells if cell.bias is not None)]
    largest = max(buffers(quantized, schema.TensorType.FLOAT32).values())
    assert largest == 4 * max(np.prod(bias.shape) for bias in biases)


def test_it_carries_the_signatures_metadata_and_tokenizer_of_the_float32_file(quantized: Path) -> None:
    files = [quantized / exporter.path for exporter in (FLOAT32, INT8)]
    mine, other = (Interpreter(str(path)).get_signature_list() for path in files)
    assert mine == other
    carried = [client.metadata_buffers(path.read_bytes()) for path in files]
    for name in ("keras_lstmgen", "tokenizer"):
        assert carried[0][name] == carried[1][name]


def texts(folder: Path, call: Call, seeds: list[int]) -> list[list[int]]:
    about = run_directory.load_metadata(folder)
    inputs = {
        "ids": np.full((len(seeds), 1), about.start_id, np.int32),
        "state": np.zeros((len(seeds), about.state_size), np.float32),
        "noise": sampling.noise(seeds, 40),
    }
    rows = sampling.rows([sampling.Options(temperature=0.9)] * len(seeds))
    return [list(row) for row in call("generate", **inputs, **rows._asdict())["tokens"].tolist()]


def test_a_seed_writes_the_same_text_each_time_alone_and_in_company_and_by_the_client(quantized: Path) -> None:
    seeds = [3, 2**40, 11]
    together = texts(quantized, INT8.open_artifact(quantized), seeds)
    assert together == texts(quantized, INT8.open_artifact(quantized, threads=2), seeds)
    alone = INT8.open_artifact(quantized)
    assert together == [texts(quantized, alone, [seed])[0] for seed in seeds]
    step, about, _ = client.load(quantized / INT8.path)
    metadata, options = kit.read_metadata(about), kit.Options(temperature=0.9)
    written = kit.generate(step, [metadata.start_id], metadata, options, seed=3, max_new_tokens=40)
    assert list(written) == together[0]


def test_where_the_corpus_is_not_at_hand_the_loss_is_that_of_keras_s_own_texts(moved: Path) -> None:
    model = run_directory.load(moved)
    elsewhere = model.metadata.recipe | {"corpus": model.metadata.recipe["corpus"] | {"source": ["/no/such/text"]}}
    stdin = model.metadata.recipe | {"corpus": model.metadata.recipe["corpus"] | {"source": ["-"]}}
    for lost in (elsewhere, stdin):
        values = json.loads((moved / "keras_lstmgen.json").read_text(encoding="utf-8"))
        (moved / "keras_lstmgen.json").write_text(json.dumps(values | {"recipe": lost}), encoding="utf-8")
        export_run.export(moved, recipe.Export(formats=("tflite_int8",), texts=12, tokens=30))
        assert entry(moved)["loss_text"] == "texts that Keras wrote"
        assert abs(entry(moved)["loss_difference"]) < 0.02


def worsen(folder: Path) -> None:
    """Round the weights to three bits."""
    path = str(folder / INT8.path)
    content = flatbuffer_utils.read_model(path)
    for number in buffers(folder, schema.TensorType.INT8):
        weights = np.array(content.buffers[number].data, np.uint8).view(np.int8).astype(np.int32)
        content.buffers[number].data = (np.round(weights / 42) * 42).astype(np.int8).view(np.uint8)
    flatbuffer_utils.write_model(content, path)


def test_a_file_that_is_worse_by_more_than_its_bound_is_discarded_and_reported(
    moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: run_directory.Run, folder: Path) -> None:
        INT8.write(model, folder)
        worsen(folder)

    before, proved = (moved / INT8.path).read_bytes(), entry(moved)
    worse = dataclasses.replace(INT8, write=write)
    monkeypatch.setattr(export_run, "_exporter", lambda _: worse)
    with pytest.raises(UserError, match=r"TFLite int8: its loss is [\d.]+ nats per token above .*\(allowed: 0.02\)"):
        export_run.export(moved, recipe.Export(formats=("tflite_int8",), texts=12, tokens=30))
    assert (moved / INT8.path).read_bytes() == before
    assert entry(moved) == proved


def test_a_file_that_writes_another_text_the_second_time_is_refused(quantized: Path) -> None:
    model, call = run_directory.load(quantized), INT8.open_artifact(quantized)

    def again(graph: str, **inputs: Any) -> dict[str, Any]:
        shifted = {"noise": inputs["noise"] * np.float32(0.5)} if graph == "generate" else {}
        return call(graph, **inputs | shifted)

    proof = verify.verify_quantized(model, verify.compute_reference(model, texts=12, tokens=30), call, again, 0.02)
    assert len(proof.reasons) == 1
    assert "texts differ when they are generated again" in proof.reasons[0]


def test_a_loss_that_is_no_number_is_refused() -> None:
    assert verify._reasons_quantized(float("nan"), 0.02, 5, 5)
    assert verify._reasons_quantized(0.0201, 0.02, 5, 5)
    assert verify._reasons_quantized(0.0199, 0.02, 5, 5) == ()
    assert verify._reasons_quantized(-0.5, 0.02, 5, 5) == ()


def test_the_table_says_what_it_does_not_promise(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = export_run.export(moved, recipe.Export(formats=("tflite_int8",), texts=6, tokens=5))
    print_results(moved, results.values())
    out = " ".join(capsys.readouterr().out.split())
    assert "TFLite int8 does not generate the same texts as Keras." in out
    assert "Its loss exceeds the loss of Keras by less than 0.02 nats per token" in out
