"""A server that loads the SavedModel takes strings and gives the strings that Keras writes."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from keras_lstmgen import generation, recipe, run, sampling, tokenizer, training
from keras_lstmgen.exporters import saved_model, strings, warmup

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export.tf_serving import grpc_client, rest
from export.tf_serving.request import signed

SERVER = Path(__file__).with_name("model_server.py")
SIGNATURES = {
    "serving_default": ({"prompt", *strings.DEFAULTS}, {"text", "token_count", "finish_reason", "logprob"}),
    "complete": ({"prompt"}, {"text", "token_count", "finish_reason", "logprob"}),
    "score_text": ({"text"}, {"logprob", "token_count", "perplexity"}),
    "tokenize": ({"text"}, {"ids", "token_count"}),
    "detokenize": ({"ids"}, {"text"}),
}
TEXTS = ("", "the moon", "床前明月光，", "a\n\n b\n", " ", "ab" * 30, "\N{GRINNING FACE} \t\r\n")


class Server:
    """The stand-in for TF Serving, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        """Start it and wait until it has loaded the SavedModel."""
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), str(folder)], text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        self.signatures = self._read()

    def _read(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def batch(self, *requests: dict[str, Any]) -> Any:
        """What the clients of requests get that came at the same time."""
        assert self.process.stdin
        print(json.dumps(requests), file=self.process.stdin, flush=True)
        return self._read()

    def rest(self, signature: str, inputs: Any) -> Any:
        """What a client of REST gets."""
        answers = self.batch({"rest": json.loads(rest.body(inputs, signature))})
        return answers[0] if isinstance(answers, list) else answers

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Served(NamedTuple):
    """A run and the server that has its SavedModel."""

    model: run.Run
    server: Server
    folder: Path


@pytest.fixture(scope="module")
def trained_words(settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by words, with its SavedModel."""
    words = recipe.override(settings, {"tokenizer.type": "word", "training.epochs": 1})
    folder = training.train(words, tmp_path_factory.mktemp("words"), "words")
    saved_model.write(run.load(folder), folder)
    return folder


@pytest.fixture(scope="module", params=["trained", "trained_lines", "trained_words"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A stream of characters, documents in subwords, a stream of words."""
    folder = request.getfixturevalue(request.param)
    server = Server(folder / saved_model.PLACE)
    yield Served(run.load(folder), server, folder)
    server.close()


def meta_graph(folder: Path) -> Any:
    return saved_model_pb2.SavedModel.FromString((folder / "serving/1/saved_model.pb").read_bytes()).meta_graphs[0]


def written(model: run.Run, row: dict[str, Any]) -> generation.Sample:
    """What Keras writes for a row of a request."""
    options = sampling.Options(**{name: row[name] for name in sampling.Rows._fields if name in row})
    seeds = [row.get("seed", 0)]
    return generation.generate(model, row["prompt"], row.get("max_new_tokens", 200), options, seeds=seeds)[0]


def check(model: run.Run, rows: list[dict[str, Any]], answers: dict[str, Any]) -> None:
    """Hold the answer of a server against Keras."""
    samples = [written(model, row) for row in rows]
    assert answers["text"] == [sample.text for sample in samples]
    assert answers["token_count"] == [len(sample.tokens) for sample in samples]
    assert answers["finish_reason"] == [sample.finish_reason for sample in samples]
    np.testing.assert_allclose(answers["logprob"], [sample.logprob for sample in samples], rtol=1e-4)


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, with the neutral value of what a row does not say."""
    neutral = {name: value for name, (_, value) in strings.DEFAULTS.items()}
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
    assert set(signatures["serving_default"].defaults) == set(strings.DEFAULTS)


def test_every_operator_is_tensorflow_s_or_tensorflow_text_s(served: Served) -> None:
    graph = meta_graph(served.folder).graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    used = {node.op for node in nodes} - {function.signature.name for function in graph.library.function}
    strangers = {op for op in used if not hasattr(tf.raw_ops, op)}
    assert strangers
    assert strangers <= saved_model.TEXT_OPERATORS


def test_texts_of_different_lengths_and_options_in_one_request_are_those_of_keras(served: Served) -> None:
    check(served.model, ROWS, served.server.rest("serving_default", columns(ROWS)))


def test_a_request_of_rows_is_the_same_as_one_of_columns(served: Served) -> None:
    by_column = columns(ROWS)
    instances = [{name: column[i] for name, column in by_column.items()} for i in range(len(ROWS))]
    assert served.server.batch({"rest": {"instances": instances}})[0] == served.server.rest(
        "serving_default", by_column
    )


def test_requests_that_are_batched_get_what_they_get_alone(served: Served) -> None:
    parts = [columns(ROWS[:1]), columns(ROWS[1:4]), columns(ROWS[4:])]
    together = served.server.batch(*({"rest": json.loads(rest.body(part))} for part in parts))
    for part, answer in zip(parts, together, strict=True):
        alone = served.server.rest("serving_default", part)
        assert [answer[key] for key in ("text", "token_count", "finish_reason")] == [
            alone[key] for key in ("text", "token_count", "finish_reason")
        ]


def test_a_prompt_alone_is_enough_by_grpc_and_by_the_signature_complete(served: Served) -> None:
    message = grpc_client.message({"prompt": ["the ", "a"]}).SerializeToString()
    by_grpc = served.server.batch({"grpc": base64.b64encode(message).decode()})[0]
    check(served.model, [{"prompt": "the "}, {"prompt": "a"}], by_grpc)
    assert served.server.rest("complete", {"prompt": ["the ", "a"]}) == by_grpc
    plain = {"rest": {"signature_name": "complete", "instances": ["the ", "a"]}}
    assert served.server.batch(plain)[0] == by_grpc


def test_the_client_of_grpc_sends_what_the_client_of_rest_sends(served: Served) -> None:
    message = grpc_client.message(columns(ROWS)).SerializeToString()
    by_grpc = served.server.batch({"grpc": base64.b64encode(message).decode()})[0]
    assert by_grpc == served.server.rest("serving_default", columns(ROWS))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("top_p", 0.0), ("top_k", -1), ("min_p", 1.5), ("repetition_penalty", 0.0),
     ("max_new_tokens", 0), ("max_new_tokens", 2**20)],
)  # fmt: skip
def test_an_option_out_of_range_is_an_error_that_names_it(served: Served, name: str, value: float) -> None:
    answer = served.server.rest("serving_default", columns([{"prompt": "a"} | {name: value}]))
    assert f"{name} is out of range" in answer["error"]


def test_what_the_server_tokenizes_is_what_the_host_tokenizes(served: Served) -> None:
    answer = served.server.rest("tokenize", {"text": list(TEXTS)})
    for text, ids, count in zip(TEXTS, answer["ids"], answer["token_count"], strict=True):
        assert ids[:count] == served.model.tokenizer.encode(text).tolist(), text
        assert set(ids[count:]) <= {-1}
    assert served.server.rest("detokenize", {"ids": answer["ids"]})["text"] == [
        served.model.tokenizer.decode(served.model.tokenizer.encode(text)) for text in TEXTS
    ]


def test_an_id_out_of_range_is_told(served: Served) -> None:
    V = served.model.metadata.vocab_size
    assert "ids: one is out of range" in served.server.rest("detokenize", {"ids": [[4, V]]})["error"]


def test_the_score_of_a_text_is_that_of_its_ids_behind_the_start_symbol(served: Served) -> None:
    answer = served.server.rest("score_text", {"text": list(TEXTS)})
    for i, text in enumerate(TEXTS):
        ids = [served.model.metadata.start_id, *served.model.tokenizer.encode(text).tolist()]
        logits = served.model.model(np.array([ids]), training=False)[0, :-1]
        logprobs = np.take_along_axis(tf.nn.log_softmax(logits).numpy(), np.array(ids[1:], int)[:, None], axis=1)
        assert answer["token_count"][i] == len(ids) - 1
        assert answer["logprob"][i] == pytest.approx(float(logprobs.sum()), rel=1e-4, abs=1e-5)
        expected = float(np.exp(-logprobs.mean())) if len(ids) > 1 else 1.0
        assert answer["perplexity"][i] == pytest.approx(expected, rel=1e-4)


def test_the_warm_up_requests_can_be_answered(served: Served) -> None:
    asked = set()
    for record in tf.data.TFRecordDataset(str(served.folder / saved_model.PLACE / warmup.PLACE)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        message = base64.b64encode(request.SerializeToString()).decode()
        assert "error" not in served.server.batch({"grpc": message})
        asked.add(request.model_spec.signature_name)
    assert asked == {*SIGNATURES, "step", "generate", "score"}


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
    host = tokenizer.Tokenizer(tokenizer.train(settings, lambda: iter([text])))
    model = run.load(trained)._replace(tokenizer=host)
    return Dialect(host, strings.Strings(model, None))  # type: ignore[arg-type]


@hypothesis.given(
    st.lists(
        st.lists(st.sampled_from([*SIGNS, "床前明月光", "月光", "the moon"]), max_size=12).map("".join), min_size=1
    )
)
def test_the_tokenizer_in_the_graph_cuts_as_the_host_s(dialect: Dialect, texts: list[str]) -> None:
    ids = dialect.graph.encode(tf.constant(np.array([text.encode() for text in texts], object)))
    assert ids.to_list() == [dialect.host.encode(text).tolist() for text in texts]


@hypothesis.given(st.data())
def test_the_tokenizer_in_the_graph_spells_as_the_host_s(dialect: Dialect, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, dialect.host.vocab_size - 1), min_size=1, max_size=9))
    text = dialect.graph.tokenizer.detokenize(tf.ragged.constant([ids], dtype=tf.int32))
    assert text.numpy()[0].decode() == dialect.host.decode(ids)


@hypothesis.given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3), st.integers(1, 50))
def test_the_noise_in_the_graph_is_that_of_the_page(seeds: list[int], N: int) -> None:
    np.testing.assert_array_equal(strings.noise_of(tf.constant(seeds, tf.int64), N), sampling.noise(seeds, N))
