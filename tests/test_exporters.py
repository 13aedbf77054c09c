"""Each artifact is what the contract says, and what does not write as Keras does is not kept."""

import base64
import dataclasses
import errno
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx as onnx_library
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from tensorflow.core.protobuf import saved_model_pb2

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run, graphs, onnx, registry, saved_model, tflite, verify
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.files import atomic
from keras_lstmgen.layers import compute_dtype
from keras_lstmgen.models import inference_step, run_directory
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds export/ and tests/
from export.tf_serving import generate as client
from tests import npm

FORMATS = {name: registry.exporter(name) for name in ("saved_model", "tflite", "onnx")}
OPTIONS = {"repetition_penalty": "float32", "temperature": "float32", "top_k": "int32", "top_p": "float32"}
OPTIONS |= {"min_p": "float32"}
FEW = recipe.Export(texts=6, tokens=5)

Tensors = dict[str, tuple[str, tuple[int | None, ...]]]  # name -> type and shape; None: free


@pytest.fixture(params=["trained", "trained_lines"])
def exported(request: pytest.FixtureRequest) -> Path:
    """A run with its artifacts: a stream of characters, then documents in subwords."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def graphs_of_the_page(V: int, S: int) -> dict[str, tuple[Tensors, Tensors]]:
    """The table of docs/contract.md: inputs and outputs of each graph."""
    state: Tensors = {"state": ("float32", (None, S))}
    next_state: Tensors = {"next_state": ("float32", (None, S))}
    window: Tensors = {"ids": ("int32", (None, None)), **state}
    logprobs: Tensors = {"logprobs": ("float32", (None, None))}
    options: Tensors = {name: (kind, (None,)) for name, kind in OPTIONS.items()}
    noise: Tensors = {"noise": ("float32", (None, None))}
    return {
        "step": ({"ids": ("int32", (None,)), **state}, {"logits": ("float32", (None, V)), **next_state}),
        "generate": (window | noise | options, {"tokens": ("int32", (None, None)), **logprobs, **next_state}),
        "score": (window, logprobs | next_state),
    }


def meta_graph(folder: Path) -> Any:
    saved = saved_model_pb2.SavedModel.FromString((folder / "serving/1/saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


def onnx_file(folder: Path, graph: str) -> Path:
    return folder / "onnx" / {"step": "model.onnx", "generate": "generate.onnx", "score": "score.onnx"}[graph]


def in_saved_model(folder: Path) -> dict[str, tuple[Tensors, Tensors]]:
    def tensors(infos: Any) -> Tensors:
        return {
            name: (tf.as_dtype(info.dtype).name, tuple(d.size if d.size >= 0 else None for d in info.tensor_shape.dim))
            for name, info in infos.items()
        }

    signatures = meta_graph(folder).signature_def  # in strings it has others, which tests/test_serving.py knows
    return {name: (tensors(signatures[name].inputs), tensors(signatures[name].outputs)) for name in graphs.GRAPHS}


def in_tflite(folder: Path) -> dict[str, tuple[Tensors, Tensors]]:
    def tensors(details: dict[str, Any]) -> Tensors:
        return {
            name: (np.dtype(d["dtype"]).name, tuple(int(n) if n >= 0 else None for n in d["shape_signature"]))
            for name, d in details.items()
        }

    interpreter = Interpreter(str(folder / "tflite/model.tflite"))
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    return {name: (tensors(r.get_input_details()), tensors(r.get_output_details())) for name, r in runners.items()}


def in_onnx(folder: Path) -> dict[str, tuple[Tensors, Tensors]]:
    def tensors(values: Any) -> Tensors:
        return {value.name: (kind(value.type.tensor_type), shape(value.type.tensor_type)) for value in values}

    def kind(tensor: Any) -> str:
        return onnx_library.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name

    def shape(tensor: Any) -> tuple[int | None, ...]:
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)

    models = {name: onnx_library.load(onnx_file(folder, name)) for name in graphs.GRAPHS}
    assert len(list((folder / "onnx").iterdir())) == len(models)
    return {name: (tensors(m.graph.input), tensors(m.graph.output)) for name, m in models.items()}


@pytest.mark.parametrize("read", [in_saved_model, in_tflite, in_onnx])
def test_the_graphs_have_the_inputs_and_outputs_of_the_page_and_no_others(
    exported: Path, read: Callable[[Path], Any]
) -> None:
    metadata = run_directory.load_metadata(exported)
    assert read(exported) == graphs_of_the_page(metadata.vocab_size, metadata.state_size)


def carried(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """The JSON and the tokenizer that each file carries."""
    assets = folder / "serving/1/assets"
    found = {"saved_model": ((assets / "keras_lstmgen.json").read_bytes(), (assets / "tokenizer.model").read_bytes())}
    content = flatbuffer_utils.read_model(str(folder / "tflite/model.tflite"))
    buffers = {entry.name.decode(): bytes(content.buffers[entry.buffer].data) for entry in content.metadata}
    found["tflite"] = buffers["keras_lstmgen"], buffers["tokenizer"]
    for graph in graphs.GRAPHS:
        props = {prop.key: prop.value for prop in onnx_library.load(onnx_file(folder, graph)).metadata_props}
        found[graph] = props["keras_lstmgen"].encode(), base64.b64decode(props["tokenizer"], validate=True)
    return found


def test_every_file_carries_the_metadata_and_the_tokenizer_of_its_run(exported: Path) -> None:
    said = json.loads((exported / "keras_lstmgen.json").read_text(encoding="utf-8"))
    assert {"format_version", "vocab_size", "state_size", "start_id", "end_id"} < said.keys()
    assert {"prompt_start", "unsampled_ids", "recipe", "metrics"} < said.keys()
    assert said["metrics"]["validation"]["nats_per_token"] > 0
    corpus = said["recipe"]["corpus"]
    corpus |= {key: [Path(name).name for name in corpus[key]] for key in ("source", "validation")}
    for name, (metadata, tokenizer) in carried(exported).items():
        assert json.loads(metadata) == said, name
        assert tokenizer == (exported / "tokenizer.model").read_bytes(), name


def test_no_file_of_an_artifact_names_a_folder_of_the_machine_that_trained_it(exported: Path) -> None:
    (source,) = json.loads((exported / "keras_lstmgen.json").read_text(encoding="utf-8"))["recipe"]["corpus"]["source"]
    folder = str(Path(source).parent).encode()
    assert Path(source).is_absolute()
    for place in ("serving", "tflite", "onnx"):
        for path in (path for path in (exported / place).rglob("*") if path.is_file()):
            assert folder not in path.read_bytes(), path


def test_the_saved_model_names_its_two_files_as_assets(trained: Path) -> None:
    assets = {asset.filename for asset in meta_graph(trained).asset_file_def}
    assert assets == {"keras_lstmgen.json", "tokenizer.model"}


def test_no_operator_of_a_tflite_file_needs_more_than_the_runtime(exported: Path) -> None:
    content = flatbuffer_utils.read_model(str(exported / "tflite/model.tflite"))
    kinds = {code.builtinCode for code in content.operatorCodes}
    assert schema.BuiltinOperator.WHILE in kinds
    assert schema.BuiltinOperator.CUSTOM not in kinds
    assert not any(code.customCode for code in content.operatorCodes)


def test_a_tflite_file_with_an_operator_of_tensorflow_is_refused(trained: Path) -> None:
    content = flatbuffer_utils.read_model(str(trained / "tflite/model.tflite"))
    tflite._check_operators(content)
    content.operatorCodes[0].builtinCode, content.operatorCodes[0].customCode = 32, b"FlexCumsum"
    with pytest.raises(UserError, match="FlexCumsum"):
        tflite._check_operators(content)


def operators(graph: Any) -> set[str]:
    return {node.op for node in [*graph.node, *(node for f in graph.library.function for node in f.node_def)]}


def test_the_saved_model_holds_operators_of_tensorflow_and_its_tokenizer_s_and_none_for_a_gpu(exported: Path) -> None:
    graph = meta_graph(exported).graph_def
    found = operators(graph) - {function.signature.name for function in graph.library.function}
    assert {"MatMul", "Assert"} < found
    assert found <= set(tf.raw_ops.__dict__) | saved_model.TEXT_OPERATORS
    assert not any("cudnn" in operator.lower() for operator in found)


@pytest.mark.parametrize("operator", ["CudnnRNNV3", "TFText>Foreign"])
def test_a_saved_model_with_an_operator_that_a_server_may_not_have_is_refused(
    trained: Path, tmp_path: Path, operator: str
) -> None:
    saved = saved_model_pb2.SavedModel.FromString((trained / "serving/1/saved_model.pb").read_bytes())
    function = next(f for f in saved.meta_graphs[0].graph_def.library.function if f.node_def)
    function.node_def[0].op = operator
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(UserError, match="cuDNN" if "Cudnn" in operator else operator):
        saved_model._check_operators(tmp_path)


def bodies(graph: Any) -> list[Any]:
    """A graph and the graphs inside its nodes."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx_library.AttributeProto.GRAPH]
    return [graph, *(body for one in inner for body in bodies(one))]


@pytest.mark.parametrize("graph", graphs.GRAPHS)
def test_onnx_files_hold_the_standard_domain_alone_in_loop_bodies_too(exported: Path, graph: str) -> None:
    model = onnx_library.load(onnx_file(exported, graph))
    assert [(imported.domain, imported.version) for imported in model.opset_import] == [("", 18)]
    assert {node.domain for body in bodies(model.graph) for node in body.node} == {""}
    assert (len(bodies(model.graph)) > 1) == (graph != "step")


def test_the_loops_of_onnx_files_reach_for_their_weights_and_carry_what_changes(exported: Path) -> None:
    for graph, carried in (("generate", (3, 6)), ("score", (3,))):
        model = onnx_library.load(onnx_file(exported, graph))
        loops = [node for node in model.graph.node if node.op_type == "Loop"]
        assert tuple(len(loop.output) for loop in loops) == carried
        weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
        for loop in loops:  # two layers: a matrix each
            nodes = loop.attribute[0].g.node
            assert len({name for node in nodes if node.op_type == "MatMul" for name in node.input} & weights) >= 2


def test_one_product_of_both_kernels_gives_what_two_give(trained: Path) -> None:
    made, B = run_directory.load(trained), 3
    joined = graphs.joined(made.weights)
    assert [cell.recurrent for cell in joined.cells] == [None, None]
    assert inference_step.state_size(joined) == made.metadata.state_size
    dice = np.random.default_rng(0)
    ids = dice.integers(0, made.metadata.vocab_size, B).astype(np.int32)
    state = dice.uniform(-1, 1, (B, made.metadata.state_size)).astype(np.float32)
    for given, wanted in zip(
        inference_step.step(joined, ids, state), inference_step.step(made.weights, ids, state), strict=True
    ):
        np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_an_onnx_file_with_a_foreign_operator_in_a_loop_is_refused(trained: Path) -> None:
    model = onnx_library.load(onnx_file(trained, "generate"))
    onnx._check_operators(model, "generate")
    bodies(model.graph)[-1].node[0].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)
    with pytest.raises(UserError, match=r"generate.onnx.*com\.example"):
        onnx._check_operators(model, "generate")


def inputs(metadata: run_directory.Metadata, B: int, **options: float) -> dict[str, Any]:
    """Inputs of ``generate``; the options given are those of the last row, the others are neutral."""
    neutral = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    rows = {name: np.full(B, neutral[name], kind) for name, kind in OPTIONS.items()}
    for name, value in options.items():
        rows[name][-1] = value
    state = np.zeros((B, metadata.state_size), np.float32)
    return {"ids": np.full((B, 2), 5, np.int32), "state": state, "noise": np.full((B, 3), 0.5, np.float32), **rows}


def test_the_saved_model_refuses_an_option_out_of_range_by_its_name(trained: Path) -> None:
    metadata, call = run_directory.load_metadata(trained), saved_model.open_artifact(trained)
    wrong = {"repetition_penalty": (0, 1e-7, 1e7, np.nan), "temperature": (-1, 1e-7, 1e7, np.nan), "top_k": (-1,)}
    wrong |= {"top_p": (0, -0.5, 1.001, np.nan), "min_p": (-0.1, 1.001, np.nan)}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} is out of range"):
                call("generate", **inputs(metadata, 2, **{name: value}))
    extreme = {"repetition_penalty": 1e-6, "temperature": 1e6, "top_k": 2**31 - 1, "top_p": 1e-9, "min_p": 1}
    assert call("generate", **inputs(metadata, 2, **extreme))["tokens"].shape == (2, 3)
    assert call("generate", **inputs(metadata, 2, temperature=0))["tokens"].shape == (2, 3)


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "export.json").read_text(encoding="utf-8")))


def test_export_json_records_versions_sizes_differences_and_counts(exported: Path) -> None:
    said = record(exported)
    assert said["versions"] == {name: importlib.metadata.version(name) for name in export_run.PACKAGES}
    assert list(said["artifacts"]) == ["saved_model", "tflite", "onnx"]
    for name, entry in said["artifacts"].items():
        place = exported / entry["path"]
        stored = [path for path in (place, *place.rglob("*")) if path.is_file()]
        assert entry["bytes"] == sum(path.stat().st_size for path in stored) > 0, name
        assert (entry["identical"], entry["tried"], entry["reasons"]) == (24, 24, [])
        assert 0 <= entry["difference"] < 1e-4
        assert entry["tokens_per_second"] > 0


def test_exporting_again_replaces_the_whole_artifact_and_leaves_the_others(copied: Path) -> None:
    (copied / "serving/1/stray").write_text("of an earlier export")
    before = record(copied)
    others = {path: path.stat().st_mtime_ns for path in (copied / "tflite").iterdir()}
    results = export_run.export(copied, recipe.Export(formats=("saved_model",), texts=6, tokens=5))
    assert not (copied / "serving/1/stray").exists()
    assert [path.name for path in (copied / "serving").iterdir()] == ["1"]
    after = record(copied)
    assert (results["saved_model"].proof.tried, after["artifacts"]["saved_model"]["tried"]) == (6, 6)
    assert after["artifacts"]["saved_model"]["identical"] == 6
    for name in ("tflite", "onnx"):
        assert after["artifacts"][name] == before["artifacts"][name]
    assert others == {path: path.stat().st_mtime_ns for path in (copied / "tflite").iterdir()}


@pytest.mark.slow
def test_a_large_vocabulary_s_artifacts_hold_their_matrices_in_parts_and_write_the_texts_of_keras(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "large"))
    monkeypatch.setattr(inference_step, "LARGE", 2)
    results = export_run.export(folder, recipe.Export(formats=("saved_model", "tflite", "onnx"), texts=12, tokens=20))
    assert {name: result.proof.identical for name, result in results.items()} == dict.fromkeys(results, 12)
    weights = run_directory.load(
        folder
    ).weights  # of two layers; that of characters looks up what its first product gives
    H, parts = weights.cells[0].recurrent.shape[0], 4
    shapes = [tuple(held.dims) for held in onnx_library.load(onnx_file(folder, "step")).graph.initializer]
    assert shapes.count((H // parts, 4 * H)) == parts * (3 + weights.tied)


def test_weights_that_are_no_numbers_are_not_exported(copied: Path) -> None:
    model = run_directory.load(copied).model
    for bad in (np.nan, np.inf):
        model.layers[-1].bias.assign(np.full(model.layers[-1].bias.shape, bad, np.float32))
        model.save(copied / "model.keras")
        before = record(copied)
        with pytest.raises(UserError, match="NaN or infinity"):
            export_run.export(copied, FEW)
        assert record(copied) == before
        assert (copied / "serving/1").is_dir()


def change_onnx(graph: str) -> Callable[[Path], None]:
    """Move the output's bias of one of the three files."""

    def change(folder: Path) -> None:
        model = onnx_library.load(onnx_file(folder, graph))
        of_run = next(path for path in (folder, folder.parent) if (path / "keras_lstmgen.json").is_file())
        V = json.loads((of_run / "keras_lstmgen.json").read_text(encoding="utf-8"))["vocab_size"]
        held = [tensor for body in bodies(model.graph) for tensor in body.initializer if list(tensor.dims) == [V]]
        changed = [tensor for tensor in held if tensor.data_type == onnx_library.TensorProto.FLOAT]
        assert changed
        for tensor in changed:
            values = onnx_library.numpy_helper.to_array(tensor) + np.linspace(0, 1, V, dtype=np.float32)
            tensor.CopyFrom(onnx_library.numpy_helper.from_array(values, tensor.name))
        atomic.write_bytes(onnx_file(folder, graph), model.SerializeToString())

    return change


def change_tflite(folder: Path) -> None:
    """Move every weight."""
    path = str(folder / "tflite/model.tflite")
    content = flatbuffer_utils.read_model(path)
    tensors = [tensor for graph in content.subgraphs for tensor in graph.tensors]
    for number in {tensor.buffer for tensor in tensors if tensor.type == schema.TensorType.FLOAT32}:
        data = content.buffers[number].data
        if data is not None and len(data) > 400:  # the others are single numbers and biases
            weights = np.array(data, np.uint8).view(np.float32) * np.float32(1.01)
            content.buffers[number].data = weights.view(np.uint8)
    flatbuffer_utils.write_model(content, path)


def cut(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])

    return change


def nothing(folder: Path) -> None:
    del folder


@pytest.fixture(scope="module")
def reference(trained: Path) -> verify.Reference:
    """What Keras writes with the run in the texts of ``FEW``."""
    return verify.compute_reference(run_directory.load(trained), FEW.texts, FEW.tokens)


@pytest.fixture
def known(reference: verify.Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that compare with ``reference``, which is computed once for all tests."""

    def compute(_: run_directory.Run, texts: int, tokens: int) -> verify.Reference:
        assert (texts, tokens) == (FEW.texts, FEW.tokens)
        return reference

    monkeypatch.setattr(verify, "compute_reference", compute)


def converters_that_copy(trained: Path, **changes: Callable[[Path], None]) -> Callable[[str], Any]:
    """Formats that write ``trained``'s artifacts, quickly, and then ``changes`` them."""

    def module(name: str) -> Any:
        real = FORMATS[name]

        def write(model: run_directory.Run, folder: Path) -> None:
            del model
            (folder / real.path).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (trained / real.path).is_dir() else shutil.copy
            copy(trained / real.path, folder / real.path)
            changes.get(name, nothing)(folder)

        return dataclasses.replace(real, write=write)

    return module


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("onnx", change_onnx("step"), r"ONNX: logits differ by [\d.]+"),
        ("onnx", change_onnx("score"), r"ONNX: logits differ by [\d.]+"),
        ("onnx", change_onnx("generate"), r"ONNX: \d of 6 texts are identical \(needed: 99%\)"),
        ("tflite", change_tflite, r"TFLite: logits differ by [\d.]+"),
        ("onnx", cut("onnx/generate.onnx"), "ONNX: cannot be run"),
        ("tflite", cut("tflite/model.tflite"), "TFLite: cannot be run"),
        ("saved_model", cut("serving/1/saved_model.pb"), "SavedModel: cannot be run"),
        ("saved_model", cut("serving/1/variables/variables.data-00000-of-00001"), "SavedModel: cannot be run"),
    ],
)
@pytest.mark.usefixtures("known")
def test_an_artifact_that_fails_its_proof_is_discarded_and_reported_and_the_one_before_stays(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Any, reason: str
) -> None:
    good = "tflite" if name == "onnx" else "onnx"
    before, proved = contents(copied / FORMATS[name].path.parts[0]), record(copied)["artifacts"][name]
    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained, **{name: change}))
    with pytest.raises(UserError, match=reason) as caught:
        export_run.export(copied, recipe.Export(formats=(name, good), texts=6, tokens=5))
    assert "\n" not in str(caught.value)
    assert "the new artifact is discarded; an earlier one is kept" in str(caught.value)
    assert contents(copied / FORMATS[name].path.parts[0]) == before
    entries = record(copied)["artifacts"]
    assert entries[name] == proved
    assert (entries[good]["path"], entries[good]["identical"]) == (str(FORMATS[good].path), 6)


@pytest.mark.usefixtures("known")
def test_a_format_that_cannot_be_written_leaves_what_was_there_and_the_others_go_on(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> None:
        shutil.copytree(trained / "onnx", folder / "onnx", dirs_exist_ok=True)
        raise RuntimeError("an operator is\nnot known")

    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained, onnx=fails))
    before = record(copied)["artifacts"]
    with pytest.raises(UserError, match=r"^ONNX: cannot be converted \(an operator is\); nothing was written$"):
        export_run.export(copied, recipe.Export(formats=("onnx", "tflite"), texts=6, tokens=5))
    after = record(copied)["artifacts"]
    assert after["onnx"] == before["onnx"]
    assert after["tflite"]["tried"] == 6


@pytest.mark.usefixtures("known")
def test_an_artifact_that_fails_its_proof_leaves_nothing_where_nothing_was(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "onnx")
    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained, onnx=change_onnx("step")))
    with pytest.raises(UserError, match="ONNX: logits differ"):
        export_run.export(copied, recipe.Export(formats=("onnx",), texts=6, tokens=5))
    assert not (copied / "onnx").exists()
    assert not list(copied.glob(".writing-*"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("known")
def test_an_artifact_that_cannot_take_its_place_leaves_the_one_before_and_its_record(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained))
    monkeypatch.setattr(atomic, "_put", _only_for(FORMATS[name].path.name, refused))
    before = contents(copied)
    with pytest.raises(UserError, match="Permission denied"):
        export_run.export(copied, recipe.Export(formats=(name,), texts=6, tokens=5))
    assert {path: data for path, data in contents(copied).items() if path != "export.json"} == {
        path: data for path, data in before.items() if path != "export.json"
    }
    assert record(copied)["artifacts"] == record(trained)["artifacts"]


def _only_for(name: str, refused: Callable[..., None]) -> Callable[..., None]:
    """``files._put``, but ``refused`` where a file or folder of this name is to take its place."""
    put = atomic._put
    return lambda new, path, before: (refused if path.name == name else put)(new, path, before)


AWKWARD = "m [2] *?\\{a,b}% 月#&'\n\"x"  # as a folder may be called


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved_model", "tflite", "onnx", "web"])
def test_a_run_is_exported_and_proved_whatever_its_folder_is_called(trained: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / AWKWARD
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("serving", "tflite", "onnx", "export.json"))
    settings = recipe.Export(formats=(name,), texts=6, tokens=5)
    proof = npm.or_skip(lambda: export_run.export(folder, settings))[name].proof
    assert (proof.identical, proof.reasons) == (6, ())
    assert (folder / registry.exporter(name).path).exists()
    assert not list(folder.glob(".*"))


def test_a_saved_model_in_a_folder_of_any_name_opens_in_its_client_too(trained: Path, tmp_path: Path) -> None:
    version = Path(shutil.copytree(trained / "serving/1", tmp_path / AWKWARD / "1"))
    step, metadata, _ = client.load(version)
    state = np.zeros(json.loads(metadata)["state_size"], np.float32)
    logits, _ = step(5, state)
    np.testing.assert_allclose(logits, client.load(trained / "serving/1")[0](5, state)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved_model", "tflite"])
def test_a_folder_for_temporary_files_may_have_any_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """TensorFlow Lite converts by way of such a folder."""
    (tmp_path / AWKWARD).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / AWKWARD))
    FORMATS[name].write(run_directory.load(trained), tmp_path / "there")
    assert (tmp_path / "there" / FORMATS[name].path).exists()
    assert not list((tmp_path / AWKWARD).iterdir())


@pytest.mark.usefixtures("known")
def test_an_artifact_whose_proof_was_broken_off_is_not_kept_and_the_one_before_stays(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained))
    monkeypatch.setattr(verify, "verify", broken_off)
    with pytest.raises(KeyboardInterrupt):
        export_run.export(copied, recipe.Export(formats=("tflite",), texts=6, tokens=5))
    assert (copied / "tflite/model.tflite").read_bytes() == (trained / "tflite/model.tflite").read_bytes()
    assert record(copied) == record(trained)
    assert not list(copied.glob(".writing-*"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure",
    [
        ("tflite", "/model.tflite", errno.ENOSPC),
        ("onnx", "/generate.onnx", errno.ENOSPC),
        ("onnx", "/onnx", errno.EROFS),
        ("saved_model", "/assets", errno.ENOSPC),
        ("saved_model", "/export.json", errno.ENOSPC),
        ("tflite", "/.writing-", errno.EROFS),
    ],
)
@pytest.mark.usefixtures("known")
def test_a_disk_that_is_full_or_read_only_in_an_export_leaves_all_as_it_was(
    trained: Path,
    copied: Path,
    refusing: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    failure: tuple[str, str, int],
) -> None:
    """The artifact that was exported before too, and its proof."""
    name, refused, error = failure
    if refused == "/export.json":
        monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained))
    (copied / FORMATS[name].path.parts[0] / "mine.txt").write_text("mine")
    before = contents(copied)
    refusing[refused] = error
    with pytest.raises(UserError, match=os.strerror(error).replace(" ", ".")) as caught:
        export_run.export(copied, recipe.Export(formats=(name,), texts=6, tokens=5))
    refusing.clear()
    assert "\n" not in str(caught.value)
    assert contents(copied) == before
    assert not list(copied.rglob(".writing-*"))


@pytest.mark.usefixtures("known")
def test_a_disk_that_is_full_for_the_proof_leaves_the_artifact_before(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/text.ids")

    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained, tflite=change_tflite))
    monkeypatch.setattr(verify, "verify", full)
    before = contents(copied)
    with pytest.raises(UserError, match=r"^TFLite: the check failed \(No space left on device\); the"):
        export_run.export(copied, recipe.Export(formats=("tflite",), texts=6, tokens=5))
    assert contents(copied) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved_model", "tflite"])
def test_a_real_disk_that_fills_up_in_an_export_leaves_all_as_it_was(trained: Path, tmp_path: Path, name: str) -> None:
    """Whoever writes, TensorFlow's own code included."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    try:
        run_there = Path(shutil.copytree(trained, disk / "small"))
        left = os.statvfs(disk)
        (disk / "filled").write_bytes(bytes(left.f_bavail * left.f_frsize - 48 * 1024))
        before = contents(run_there)
        with pytest.raises(UserError):
            export_run.export(run_there, recipe.Export(formats=(name,), texts=6, tokens=5))
        assert contents(run_there) == before
        assert not list(run_there.rglob(".writing-*"))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_command_hides_gpus_before_it_loads_a_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *what: done.append(f"hide {what}"))

    def export(folder: Path, _: recipe.Export) -> dict[str, export_run.Exported]:
        done.append(f"export {folder.name}")
        return {}

    monkeypatch.setattr(export_run, "export", export)
    assert command_line.main(["export", str(copied)]) == 0
    assert done == ["hide ([], 'GPU')", "export moved"]


@pytest.fixture
def used_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorFlow says where a GPU was used: Keras would take cuDNN, and no device can be hidden any more."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    everything = tf.config.list_logical_devices
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind=None: [gpu] if kind == "GPU" else everything(kind)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("used_gpu")
def test_after_a_training_on_a_gpu_the_same_process_exports_for_a_cpu(copied: Path) -> None:
    assert compute_dtype.has_gpu()
    export_run.hide_gpus()
    results = export_run.export(copied, recipe.Export(formats=tuple(FORMATS), texts=6, tokens=5))
    assert [result.proof.reasons for result in results.values()] == [()] * 3
    graph = meta_graph(copied).graph_def
    assert not any("cudnn" in operator.lower() for operator in operators(graph))
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert not any("GPU" in node.device for node in nodes)


def test_a_format_whose_package_is_missing_is_an_error_that_names_the_extra(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, package in (("onnx", "tf2onnx"), ("tflite", "ai_edge_litert")):
        monkeypatch.delitem(sys.modules, f"keras_lstmgen.exporters.{name}")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"--format {name}: {package} .*keras_lstmgen\[export\]"):
            export_run.export(trained, recipe.Export(formats=(name,)))


@pytest.mark.usefixtures("known")
def test_a_package_that_is_not_installed_has_no_version_and_stops_nothing(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without_onnx(name: str) -> str:
        if "onnx" in name:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_onnx)
    monkeypatch.setattr(export_run, "_exporter", converters_that_copy(trained))
    export_run.export(copied, recipe.Export(formats=("tflite",), texts=6, tokens=5))
    assert record(copied)["versions"].keys() == set(export_run.PACKAGES) - {"onnx", "tf2onnx", "onnxruntime"}


@pytest.mark.parametrize("content", ['{"artifacts": ', "[]", '{"versions": {}}'])
def test_a_damaged_export_json_is_one_clear_line_before_anything_is_written(copied: Path, content: str) -> None:
    (copied / "export.json").write_text(content)
    with pytest.raises(UserError, match=r"^.*export\.json: .*$"):
        export_run.export(copied, FEW)
    assert (copied / "export.json").read_text() == content


@pytest.fixture(scope="module")
def tried(trained: Path) -> tuple[run_directory.Run, verify.Reference, Call]:
    """A run, what Keras writes, and its ONNX files."""
    model = run_directory.load(trained)
    return model, verify.compute_reference(model, texts=20, tokens=3), onnx.open_artifact(trained)


Outputs = dict[str, Any]


@pytest.mark.parametrize(
    ("graph", "rows", "change", "reasons"),
    [
        ("step", 1, lambda out: out | {"logits": out["logits"] + np.float32(5e-5)}, []),
        ("step", 1, lambda out: out | {"logits": out["logits"] + np.float32(2e-4)}, ["logits differ by 0.0002"]),
        ("step", 8, lambda out: out | {"logits": out["logits"] - np.float32(2e-4)}, ["logits differ by 0.0002"]),
        ("step", 3, lambda out: out | {"logits": out["logits"] * np.float32(np.nan)}, ["logits differ by nan"]),
        ("score", 8, lambda out: out | {"logprobs": out["logprobs"] + np.float32(3e-4)}, ["logits differ by 0.0003"]),
        ("score", 8, lambda out: out | {"logprobs": out["logprobs"] / np.float32(0)}, ["logits differ by inf"]),
        ("generate", 3, lambda out: out | {"tokens": out["tokens"] * 0}, ["texts are identical"]),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_proof_sees_what_is_wrong_in_any_graph_and_batch(
    tried: tuple[run_directory.Run, verify.Reference, Call],
    graph: str,
    rows: int,
    change: Callable[[Outputs], Outputs],
    reasons: list[str],
) -> None:
    model, trial, call = tried

    def wrong(name: str, **values: Any) -> Outputs:
        out = call(name, **values)
        return change(out) if name == graph and len(values["ids"]) == rows else out

    proof = verify.verify(model, trial, wrong)
    assert len(proof.reasons) == len(reasons)
    assert all(wanted in found for wanted, found in zip(reasons, proof.reasons, strict=True))
    assert proof.difference is None or np.isfinite(proof.difference)


def test_a_proof_sees_what_is_wrong_in_the_texts_of_the_signature_in_strings(trained: Path) -> None:
    model, call = run_directory.load(trained), saved_model.open_artifact(trained)
    trial = verify.compute_reference(model, texts=20, tokens=5)
    compared = []

    def wrong(name: str, **values: Any) -> Outputs:
        compared.extend(values["prompt"])
        out = call(name, **values)
        return out | {"text": np.array([out["text"][0] + b"!", *out["text"][1:]], object)}

    assert verify.reasons_in_strings(model, trial, call) == ()
    (reason,) = verify.reasons_in_strings(model, trial, wrong)
    assert len(compared) > 12
    assert reason == f"with the string signature, {len(compared) - 1} of {len(compared)} texts are identical"


def test_a_proof_allows_one_text_in_a_hundred_and_of_a_large_vocabulary_five(trained: Path) -> None:
    model = run_directory.load(trained)
    assert verify.needed(model) == 0.99
    assert verify.needed(model._replace(metadata=replace(model.metadata, vocab_size=4096))) == 0.95
    assert verify._reasons(1e-6, 99, 100, 0.99) == ()
    assert len(verify._reasons(1e-6, 98, 100, 0.99)) == 1
    assert len(verify._reasons(1e-4, 98, 100, 0.99)) == 2


def test_the_texts_of_a_proof_try_several_lengths_batches_and_all_mixes_of_options(
    trained_lines: Path,
) -> None:
    model = run_directory.load(trained_lines)
    trial = verify.compute_reference(model, texts=48, tokens=2)
    assert trial.tokens.shape == (48, 2)
    assert len({len(case.prompt) for case in trial.cases}) >= len(verify.LENGTHS)
    assert {case.options for case in trial.cases} == set(verify.MIXES)
    assert len({case.seed for case in trial.cases}) == 48
    assert max(case.seed for case in trial.cases) >= 2**32
    assert all(model.metadata.end_id not in case.prompt[1:] for case in trial.cases)
    sizes = [len(group) for group in verify.groups(trial.cases, verify.BATCHES)]
    assert set(verify.BATCHES) <= set(sizes)
    assert sum(sizes) == 48
