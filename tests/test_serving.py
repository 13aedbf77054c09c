"""A server that loads the SavedModel takes strings and gives the strings that Keras writes."""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import graphs, saved_model, string_signatures, warmup
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.tokenizers import tokenizer, vocabulary
from keras_lstmgen.training import trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export.tf_serving import grpc_client, rest
from export.tf_serving.request import signed
from tests import model_server, rest_json
from tests.serving import BATCHING, StandIn

SIGNATURES = {
    "serving_default": ({"prompt", *string_signatures.DEFAULTS}, {"text", "token_count", "finish_reason", "logprob"}),
    "complete": ({"prompt"}, {"text", "token_count", "finish_reason", "logprob"}),
    "score_text": ({"text"}, {"logprob", "token_count", "perplexity"}),
    "tokenize": ({"text"}, {"ids", "token_count"}),
    "detokenize": ({"ids"}, {"text"}),
}
TEXTS = ("", "the moon", "床前明月光，", "a\n\n b\n", " ", "ab" * 30, "\N{GRINNING FACE} \t\r\n")


class Served(NamedTuple):
    """A run and the server that has its SavedModel."""

    model: run_directory.Run
    server: StandIn
    folder: Path
    generator: Generator  # that Keras writes with, traced once

    def rest(self, signature: str, inputs: Any) -> Any:
        """The outputs that a client of REST gets, or why it gets none."""
        (answer,) = self.server.batch(by_rest(signature, inputs))
        return answer["rest"]["outputs"] if "rest" in answer else answer

    def grpc(self, signature: str, inputs: Any) -> Any:
        """The same of a client of gRPC."""
        (answer,) = self.server.batch(by_grpc(signature, inputs))
        return outputs(answer) if "grpc" in answer else answer


def by_rest(signature: str, inputs: Any) -> dict[str, Any]:
    return {"rest": json.loads(rest.body(inputs, signature))}


def by_grpc(signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"grpc": base64.b64encode(grpc_client.message(inputs, signature).SerializeToString()).decode()}


def outputs(answer: dict[str, Any]) -> dict[str, Any]:
    """What is in an answer by gRPC."""
    response = predict_pb2.PredictResponse.FromString(base64.b64decode(answer["grpc"]))
    return {name: grpc_client.entries(tf.make_ndarray(tensor)) for name, tensor in response.outputs.items()}


@pytest.fixture(scope="module")
def trained_words(settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by words, with its SavedModel."""
    words = recipe.override(settings, {"tokenizer.type": "word", "training.epochs": 1})
    folder = trainer.train(words, tmp_path_factory.mktemp("words"), "words").folder
    saved_model.write(run_directory.load(folder), folder)
    return folder


@pytest.fixture(scope="module", params=["trained", "trained_lines", "trained_words"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A stream of characters, documents in subwords, a stream of words."""
    folder = request.getfixturevalue(request.param)
    server = StandIn(folder / saved_model.PATH)
    model = run_directory.load(folder)
    yield Served(model, server, folder, Generator(model))
    server.close()


def meta_graph(folder: Path) -> Any:
    return saved_model_pb2.SavedModel.FromString((folder / "serving/1/saved_model.pb").read_bytes()).meta_graphs[0]


def written(served: Served, row: dict[str, Any]) -> Sample:
    """What Keras writes for a row of a request."""
    options = sampling.Options(**{name: row[name] for name in sampling.Rows._fields if name in row})
    seeds = [row.get("seed", 0)]
    limit = row.get("max_new_tokens", 200)
    return served.generator.generate(row["prompt"], GenerationConfig(limit, options), seeds=seeds)[0]


def check(served: Served, rows: list[dict[str, Any]], answers: dict[str, Any]) -> None:
    """Hold the answer of a server against Keras."""
    samples = [written(served, row) for row in rows]
    assert answers["text"] == [sample.text for sample in samples]
    assert answers["token_count"] == [len(sample.tokens) for sample in samples]
    assert answers["finish_reason"] == [sample.finish_reason for sample in samples]
    np.testing.assert_allclose(answers["logprob"], [sample.logprob for sample in samples], rtol=1e-4)


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, with the neutral value of what a row does not say."""
    neutral = {name: value for name, (_, value) in string_signatures.DEFAULTS.items()}
    return {name: [(neutral | row)[name] for row in rows] for name in ("prompt", *neutral)}


ROWS: list[dict[str, Any]] = [
    {"prompt": "the moon ", "seed": 1, "max_new_tokens": 30},
    {"prompt": "", "seed": signed(2**64 - 3), "max_new_tokens": 41, "temperature": 0.7, "top_k": 5},
    {"prompt": "床前明月光，", "seed": 2**32 + 5, "max_new_tokens": 1, "top_p": 0.9},
    {"prompt": "a\n b", "seed": -1, "max_new_tokens": 17, "repetition_penalty": 1.4, "temperature": 0.0},
    {"prompt": "\N{GRINNING FACE}", "seed": 2**62, "max_new_tokens": 23, "min_p": 0.05, "temperature": 1.3},
]


def test_the_signatures_in_strings_have_these_inputs_and_outputs(served: Served) -> None:
    """Beside the three of the contract; the server has neither Keras nor the package."""
    assert {*SIGNATURES, "step", "generate", "score"} <= set(served.server.signatures)
    signatures = meta_graph(served.folder).signature_def
    assert {n: (set(signatures[n].inputs), set(signatures[n].outputs)) for n in SIGNATURES} == SIGNATURES
    assert set(signatures["serving_default"].defaults) == set(string_signatures.DEFAULTS)


def test_every_operator_is_tensorflow_s_or_tensorflow_text_s(served: Served) -> None:
    graph = meta_graph(served.folder).graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    used = {node.op for node in nodes} - {function.signature.name for function in graph.library.function}
    strangers = {op for op in used if not hasattr(tf.raw_ops, op)}
    assert strangers
    assert strangers <= saved_model.TEXT_OPERATORS


def test_texts_of_different_lengths_and_options_in_one_request_are_those_of_keras(served: Served) -> None:
    check(served, ROWS, served.rest("serving_default", columns(ROWS)))


def test_a_request_of_rows_is_the_same_as_one_of_columns(served: Served) -> None:
    by_column = columns(ROWS)
    instances = [{name: column[i] for name, column in by_column.items()} for i in range(len(ROWS))]
    (answer,) = served.server.batch({"rest": {"instances": instances}})
    expected = served.rest("serving_default", by_column)
    assert answer["rest"]["predictions"] == [
        dict(zip(expected, row, strict=True)) for row in zip(*expected.values(), strict=True)
    ]


def test_a_single_output_comes_without_its_name(served: Served) -> None:
    ids = [served.model.tokenizer.encode("the").tolist()]
    assert served.rest("detokenize", {"ids": ids}) == ["the"]
    (answer,) = served.server.batch({"rest": {"signature_name": "detokenize", "instances": ids}})
    assert answer["rest"] == {"predictions": ["the"]}
    assert served.grpc("detokenize", {"ids": ids}) == {"text": ["the"]}


def test_requests_that_are_batched_get_what_they_get_alone(served: Served) -> None:
    parts = [columns(ROWS[:1]), columns(ROWS[1:4]), columns(ROWS[4:])]
    together = served.server.batch(*(by_rest("serving_default", part) for part in parts))
    for part, answer in zip(parts, together, strict=True):
        alone = served.rest("serving_default", part)
        for key in ("text", "token_count", "finish_reason"):
            assert answer["rest"]["outputs"][key] == alone[key]


def test_a_prompt_alone_is_enough_by_grpc_and_by_the_signature_complete(served: Served) -> None:
    alone = served.grpc("serving_default", {"prompt": ["the "]})
    check(served, [{"prompt": "the "}], alone)
    for found in (served.grpc("complete", {"prompt": ["the "]}), served.rest("complete", {"prompt": ["the "]})):
        assert {**found, "logprob": None} == {**alone, "logprob": None}


def test_several_prompts_with_nothing_else_go_to_complete_as_a_default_has_one_row(served: Served) -> None:
    two = {"prompt": ["the ", "a"]}
    assert "must have equal 0th-dimension size" in served.grpc("serving_default", two)["error"]
    found = served.rest("complete", two)
    check(served, [{"prompt": "the "}, {"prompt": "a"}], found)
    (plain,) = served.server.batch({"rest": {"signature_name": "complete", "instances": two["prompt"]}})
    assert [row["text"] for row in plain["rest"]["predictions"]] == found["text"]


def test_the_client_of_grpc_sends_one_value_a_row_and_gets_what_the_client_of_rest_gets(served: Served) -> None:
    found = served.grpc("serving_default", columns(ROWS))
    check(served, ROWS, found)
    assert found["text"] == served.rest("serving_default", columns(ROWS))["text"]


def lengths(served: Served, P: int, N: int) -> dict[str, Any]:
    """Inputs of ``generate`` for a row, P ids of a prompt and N tokens to write."""
    state = [[0.0] * served.model.metadata.state_size]
    rows = {name: column.tolist() for name, column in sampling.rows([sampling.Options()])._asdict().items()}
    return {"ids": [[5] * P], "state": state, "noise": sampling.noise([3], N).tolist(), **rows}


ONE_RUN = pytest.mark.parametrize("served", ["trained"], indirect=True)  # where the rules of the server are the matter


@ONE_RUN
@pytest.mark.parametrize(("P", "N"), [(2, 4), (3, 5)])
def test_graphs_of_ids_share_a_batch_with_their_equals_in_length_alone(served: Served, P: int, N: int) -> None:
    """Each is right alone; in the same two milliseconds both get an error, and without batching none does."""
    one, other = (by_grpc("generate", lengths(served, *sizes)) for sizes in ((3, 4), (P, N)))
    same = served.server.batch(one, one)
    assert outputs(same[0])["tokens"] == outputs(same[1])["tokens"] == outputs(served.server.batch(one)[0])["tokens"]
    for answer in served.server.batch(one, other):
        assert "have different shapes and padding is turned off" in answer["error"]
        assert answer["code"] == "FAILED_PRECONDITION"


@ONE_RUN
def test_score_and_detokenize_want_equal_lengths_too(served: Served) -> None:
    state = [[0.0] * served.model.metadata.state_size]
    for signature, more in (("score", {"state": state}), ("detokenize", {})):
        requests = [by_grpc(signature, {"ids": [[5] * P], **more}) for P in (2, 3)]
        assert all("different shapes" in answer["error"] for answer in served.server.batch(*requests))
        assert all("grpc" in served.server.batch(request)[0] for request in requests)


@ONE_RUN
def test_without_batching_requests_of_any_lengths_may_come_together(served: Served) -> None:
    server = StandIn(served.folder / saved_model.PATH, batching=None)
    answers = server.batch(*(by_grpc("generate", lengths(served, P, P + 1)) for P in (1, 2, 3)))
    assert [len(outputs(answer)["tokens"][0]) for answer in answers] == [2, 3, 4]
    (answer,) = server.batch(by_grpc("serving_default", {"prompt": ["the ", "a"]}))
    assert len(outputs(answer)["text"]) == 2
    server.close()


@ONE_RUN
def test_256_rows_in_one_request_are_answered_and_more_are_refused(served: Served) -> None:
    assert model_server.parameters(BATCHING.read_text(encoding="utf-8"))["max_batch_size"] == 256
    rows = [{"prompt": "the " * (i % 3), "seed": i, "max_new_tokens": 3} for i in range(256)]
    found = served.rest("serving_default", columns(rows))
    assert len(set(found["text"])) > 20
    check(served, rows[100:104], {key: column[100:104] for key, column in found.items()})
    refused = served.rest("serving_default", columns([*rows, rows[0]]))
    assert refused["error"] == "Task size 257 is larger than maximum input batch size 256"


@ONE_RUN
def test_what_does_not_fit_into_a_batch_is_the_next_one_and_a_bad_request_is_its_own_error(served: Served) -> None:
    many = columns([{"prompt": "a", "seed": i, "max_new_tokens": 2} for i in range(200)])
    bad = by_rest("serving_default", {"prompt": ["a"]})
    answers = served.server.batch(by_rest("serving_default", many), bad, by_rest("serving_default", many))
    assert answers[0]["rest"]["outputs"]["text"] == answers[2]["rest"]["outputs"]["text"]
    assert "Missing named input" in answers[1]["error"]


@ONE_RUN
@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 1.5), ("top_k", 1.0), ("top_k", True), ("top_k", 2**31), ("seed", 2**63), ("seed", "7"),
     ("temperature", "1"), ("temperature", None), ("temperature", 2**24), ("prompt", 7), ("prompt", ["a"])],
)  # fmt: skip
def test_by_rest_a_value_of_another_type_is_refused(served: Served, name: str, value: Any) -> None:
    inputs = columns([{"prompt": "a"}]) | {name: [value]}
    assert served.rest("serving_default", inputs)["code"] == "INVALID_ARGUMENT"


@ONE_RUN
@pytest.mark.parametrize(("name", "kind"), [("seed", tf.int32), ("top_k", tf.int64), ("temperature", tf.float64)])
def test_by_grpc_a_tensor_of_another_type_is_refused(served: Served, name: str, kind: Any) -> None:
    message = grpc_client.message(columns([{"prompt": "a"}]))
    message.inputs[name].CopyFrom(tf.make_tensor_proto([1], kind))
    (answer,) = served.server.batch({"grpc": base64.b64encode(message.SerializeToString()).decode()})
    assert f"but {kind.name} is provided: {name}" in answer["error"]


def test_the_client_of_grpc_knows_the_type_of_every_input(served: Served) -> None:
    found = {
        name: info.dtype
        for signature in {*SIGNATURES, *graphs.GRAPHS}
        for name, info in meta_graph(served.folder).signature_def[signature].inputs.items()
    }
    assert found == {name: kind.as_datatype_enum for name, kind in grpc_client.KINDS.items()}


WANTED = {"a": np.int32, "b": object}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": {"a": [1], "b": [""]}, "instances": []},
        {"inputs": [1]},
        {"inputs": {"a": [1]}},
        {"inputs": {"a": [[1], [1, 2]], "b": [""]}},
        {"inputs": {"a": [[1], 2], "b": [""]}},
        {"instances": []},
        {"instances": [1]},
        {"instances": [{"a": 1}]},
        {"instances": [{"a": 1, "b": "", "c": 2}]},
        {"instances": [{"a": [1], "b": ""}, {"a": [1, 2], "b": ""}]},
        {"instances": [{"a": 1, "b": ""}, 1]},
    ],
)
def test_the_stand_in_refuses_json_that_the_server_refuses(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        rest_json.read(body, WANTED)


def test_the_stand_in_reads_json_as_the_server_does() -> None:
    inputs, form = rest_json.read(
        {"instances": [{"a": [1, 2], "b": "月"}, {"a": [3, 4], "b": {"b64": "/w=="}}]}, WANTED
    )
    assert (form, inputs["a"].tolist(), inputs["a"].dtype) == ("instances", [[1, 2], [3, 4]], np.int32)
    assert inputs["b"].tolist() == ["月".encode(), b"\xff"]
    inputs, form = rest_json.read({"inputs": {"a": 1, "b": [], "c": "not looked at"}}, WANTED)
    assert (form, inputs["a"].shape, inputs["b"].shape, {*inputs}) == ("inputs", (), (0,), {"a", "b"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("top_p", 0.0), ("top_k", -1), ("min_p", 1.5), ("repetition_penalty", 0.0),
     ("max_new_tokens", 0), ("max_new_tokens", 2**20)],
)  # fmt: skip
def test_an_option_out_of_range_is_an_error_that_names_it(served: Served, name: str, value: float) -> None:
    answer = served.rest("serving_default", columns([{"prompt": "a"} | {name: value}]))
    assert f"{name} is out of range" in answer["error"]


def test_what_the_server_tokenizes_is_what_the_host_tokenizes(served: Served) -> None:
    answer = served.rest("tokenize", {"text": list(TEXTS)})
    for text, ids, count in zip(TEXTS, answer["ids"], answer["token_count"], strict=True):
        assert ids[:count] == served.model.tokenizer.encode(text).tolist(), text
        assert set(ids[count:]) <= {-1}
    assert served.rest("detokenize", {"ids": answer["ids"]}) == [
        served.model.tokenizer.decode(served.model.tokenizer.encode(text)) for text in TEXTS
    ]


def test_an_id_out_of_range_is_told(served: Served) -> None:
    V = served.model.metadata.vocab_size
    assert "ids: one is out of range" in served.rest("detokenize", {"ids": [[4, V]]})["error"]


def test_the_score_of_a_text_is_that_of_its_ids_behind_the_start_symbol(served: Served) -> None:
    answer = served.rest("score_text", {"text": list(TEXTS)})
    for i, text in enumerate(TEXTS):
        ids = [served.model.metadata.start_id, *served.model.tokenizer.encode(text).tolist()]
        logits = served.model.model(np.array([ids]), training=False)[0, :-1]
        logprobs = np.take_along_axis(tf.nn.log_softmax(logits).numpy(), np.array(ids[1:], int)[:, None], axis=1)
        assert answer["token_count"][i] == len(ids) - 1
        assert answer["logprob"][i] == pytest.approx(float(logprobs.sum()), rel=1e-4, abs=1e-5)
        expected = float(np.exp(-logprobs.mean())) if len(ids) > 1 else 1.0
        assert answer["perplexity"][i] == pytest.approx(expected, rel=1e-4)


def test_the_warm_up_requests_can_be_answered(served: Served) -> None:
    """By a server that batches; their texts are words, of many lengths."""
    asked, prompts = set(), set[bytes]()
    for record in tf.data.TFRecordDataset(str(served.folder / saved_model.PATH / warmup.PATH)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        message = base64.b64encode(request.SerializeToString()).decode()
        assert "grpc" in served.server.batch({"grpc": message})[0]
        asked.add(request.model_spec.signature_name)
        prompts.update(request.inputs["prompt"].string_val)
    assert asked == {*SIGNATURES, *graphs.GRAPHS}
    assert prompts == {prompt.encode() for prompt in warmup.PROMPTS}
    assert len({len(served.model.tokenizer.encode(prompt)) for prompt in warmup.PROMPTS}) == len(prompts)


# In this process: the functions that the graphs are made of.


class Dialect(NamedTuple):
    """A kind of tokenizer, on the host and in the graph."""

    host: tokenizer.Tokenizer
    graph: Any


SIGNS = 'the mon\n 床前明月光疑，▁<s>"\r\0é\N{GRINNING FACE}'


@pytest.fixture(scope="module", params=["char", "word", "bpe", "unigram"])
def dialect(request: pytest.FixtureRequest, trained: Path) -> Dialect:
    """Every kind, learned from a little text."""
    text = 'the moon is bright\n  the frost, "white"\n床前明月光\n疑是地上霜\n' * 20
    settings = recipe.Tokenizer(type=request.param, vocab_size=0 if request.param in ("char", "word") else 30)
    host = tokenizer.Tokenizer(vocabulary.train(settings, lambda: iter([text])))
    model = run_directory.load(trained)._replace(tokenizer=host)
    return Dialect(host, string_signatures.Strings(model, None))  # type: ignore[arg-type]


@hypothesis.given(
    st.lists(
        st.lists(st.sampled_from([*SIGNS, "床前明月光", "月光", "the moon"]), max_size=12).map("".join), min_size=1
    )
)
def test_the_tokenizer_in_the_graph_cuts_as_the_host_s(dialect: Dialect, texts: list[str]) -> None:
    ids = dialect.graph.encode(tf.constant(np.array([text.encode() for text in texts], object)))
    assert ids.to_list() == [dialect.host.encode(text).tolist() for text in texts]


@hypothesis.settings(max_examples=20)
@hypothesis.given(
    st.lists(st.sampled_from([b"\xff", b"\xc3", b"\x80", b"\xf0\x9f", b"\xef\xbb\xbf", b"the", b" \n", "月".encode()]))
)
def test_bytes_that_are_not_utf_8_are_cut_as_replacement_characters(dialect: Dialect, parts: list[bytes]) -> None:
    ids = dialect.graph.encode(tf.constant([b"".join(parts)]))
    assert ids.to_list() == [dialect.host.encode(b"".join(parts).decode("utf-8", "replace")).tolist()]


@hypothesis.given(st.data())
def test_the_tokenizer_in_the_graph_spells_as_the_host_s(dialect: Dialect, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, dialect.host.vocab_size - 1), min_size=1, max_size=9))
    text = dialect.graph.tokenizer.detokenize(tf.ragged.constant([ids], dtype=tf.int32))
    assert text.numpy()[0].decode() == dialect.host.decode(ids)


@hypothesis.given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3), st.integers(1, 50))
def test_the_noise_in_the_graph_is_that_of_the_page(seeds: list[int], N: int) -> None:
    np.testing.assert_array_equal(string_signatures.noise_of(tf.constant(seeds, tf.int64), N), sampling.noise(seeds, N))
