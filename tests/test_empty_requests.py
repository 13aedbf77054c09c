"""A SavedModel answers no rows, empty rows and bytes that are not UTF-8 as docs/contract.md says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.exporters import saved_model, string_signatures
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory

GOLDEN = Path(__file__).with_name("golden") / "run"
P, N = 3, 2
BROKEN = (b"a\xffb", b"\xf0\x9f\x98", b"\xc3\n\x80 x", b"\xed\xa0\x80", b"\x00\xfe\x00", b"\xef\xbb\xbfT")


@pytest.fixture(scope="module")
def model() -> run_directory.Run:
    return run_directory.load(GOLDEN)


@pytest.fixture(scope="module")
def call(golden_exported: Path) -> Call:
    """The SavedModel of a small run, loaded as a server loads it."""
    return saved_model.open_artifact(golden_exported)


def options(B: int) -> dict[str, Any]:
    kinds = {name: np.int32 if name == "top_k" else np.float32 for name in sampling.Rows._fields}
    return {name: np.full(B, getattr(sampling.Options(), name), kind) for name, kind in kinds.items()}


def inputs(signature: str, S: int, B: int, text: bytes = b"") -> dict[str, Any]:
    """A request of B rows; those of strings all have the same ``text``."""
    texts, state = np.full(B, text, object), np.zeros((B, S), np.float32)
    limits = {"seed": np.zeros(B, np.int64), "max_new_tokens": np.full(B, 9, np.int32)}
    requests: dict[str, dict[str, Any]] = {
        "step": {"ids": np.zeros(B, np.int32), "state": state},
        "generate": {
            "ids": np.zeros((B, P), np.int32), "state": state, "noise": np.zeros((B, N), np.float32), **options(B)
        },
        "score": {"ids": np.zeros((B, P), np.int32), "state": state},
        "serving_default": {"prompt": texts, **limits, **options(B)},
        "complete": {"prompt": texts},
        "score_text": {"text": texts},
        "tokenize": {"text": texts},
        "detokenize": {"ids": np.zeros((B, P), np.int32)},
    }  # fmt: skip
    return requests[signature]


def of_no_rows(V: int, S: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of each output."""
    written: dict[str, tuple[int, ...]] = {"text": (0,), "token_count": (0,), "finish_reason": (0,), "logprob": (0,)}
    return {
        "step": {"logits": (0, V), "next_state": (0, S)},
        "generate": {"tokens": (0, N), "logprobs": (0, N), "next_state": (0, S)},
        "score": {"logprobs": (0, P - 1), "next_state": (0, S)},
        "serving_default": written,
        "complete": written,
        "score_text": {"logprob": (0,), "token_count": (0,), "perplexity": (0,)},
        "tokenize": {"ids": (0, 0), "token_count": (0,)},
        "detokenize": {"text": (0,)},
    }


@pytest.mark.parametrize("signature", of_no_rows(0, 0))
def test_a_request_of_no_rows_has_an_answer_of_no_rows(model: run_directory.Run, call: Call, signature: str) -> None:
    V, S = model.metadata.vocab_size, model.metadata.state_size
    answer = call(signature, **inputs(signature, S, 0))
    assert {name: value.shape for name, value in answer.items()} == of_no_rows(V, S)[signature]


def test_the_defaults_of_one_row_serve_no_rows(model: run_directory.Run, call: Call) -> None:
    signature = string_signatures.DEFAULTS.items()
    defaults = {name: np.array([value], kind.as_numpy_dtype) for name, (kind, value) in signature}
    answer = call("serving_default", prompt=np.array([], object), **defaults)
    assert {name: len(value) for name, value in answer.items()} == dict.fromkeys(answer, 0)
    assert len(answer) == len(of_no_rows(model.metadata.vocab_size, 0)["serving_default"])


def test_an_empty_string_begins_a_text_has_nothing_to_score_and_no_tokens(model: run_directory.Run, call: Call) -> None:
    S = model.metadata.state_size
    [sample] = Generator(model).generate("", GenerationConfig(9))
    for signature, limit in (("serving_default", 9), ("complete", string_signatures.MAX_NEW_TOKENS)):
        answer = call(signature, **inputs(signature, S, 2))
        assert answer["text"][0] == answer["text"][1]
        assert answer["text"][0].decode().startswith(sample.text.rstrip("\N{REPLACEMENT CHARACTER}"))
        assert 0 < answer["token_count"][0] <= limit
    scored = call("score_text", **inputs("score_text", S, 2))
    assert {name: value.tolist() for name, value in scored.items()} == {
        "logprob": [0, 0], "token_count": [0, 0], "perplexity": [1, 1]
    }  # fmt: skip
    cut = call("tokenize", **inputs("tokenize", S, 2))
    assert (cut["ids"].shape, cut["token_count"].tolist()) == ((2, 0), [0, 0])
    assert call("detokenize", ids=np.zeros((2, 0), np.int32))["text"].tolist() == [b"", b""]
    assert call("detokenize", ids=np.full((2, P), -1, np.int32))["text"].tolist() == [b"", b""]


@pytest.mark.parametrize("length", [0, 1])
def test_fewer_than_two_ids_have_nothing_to_score_and_leave_the_state(
    model: run_directory.Run, call: Call, length: int
) -> None:
    state = np.ones((2, model.metadata.state_size), np.float32)
    answer = call("score", ids=np.zeros((2, length), np.int32), state=state)
    assert answer["logprobs"].shape == (2, 0)
    np.testing.assert_array_equal(answer["next_state"], state)


def test_generate_without_noise_reads_and_writes_nothing(model: run_directory.Run, call: Call) -> None:
    S = model.metadata.state_size
    request = inputs("generate", S, 2) | {"noise": np.zeros((2, 0), np.float32)}
    assert call("generate", **request)["tokens"].shape == (2, 0)


@pytest.mark.parametrize("rows", [0, 2])
def test_generate_without_ids_is_an_error_that_names_them(model: run_directory.Run, call: Call, rows: int) -> None:
    request = inputs("generate", model.metadata.state_size, rows) | {"ids": np.zeros((rows, 0), np.int32)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids: its rows are empty; give at least one id in each"):
        call("generate", **request)


@pytest.mark.parametrize("signature", ["serving_default", "complete", "score_text", "tokenize"])
def test_bytes_that_are_not_utf_8_are_read_as_replacement_characters(
    model: run_directory.Run, call: Call, signature: str
) -> None:
    for broken in BROKEN:
        mended = broken.decode("utf-8", "replace").encode()
        answers = [
            call(signature, **inputs(signature, model.metadata.state_size, 2, text)) for text in (broken, mended)
        ]
        for name, value in answers[0].items():
            np.testing.assert_array_equal(value, answers[1][name], err_msg=f"{broken!r}: {name}")
    host = model.tokenizer.encode(BROKEN[0].decode("utf-8", "replace"))
    np.testing.assert_array_equal(call("tokenize", text=np.array([BROKEN[0]], object))["ids"][0], host)
