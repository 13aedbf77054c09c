"""Artifacts that somebody else has made: the clients' own readers open them or refuse, with ValueError alone.

What a runtime makes of a damaged graph is its own matter (SECURITY.md). `tests/test_c_client.py` is this for C.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export import beam, client, contract
from export import tokenizer as kit
from export.tflite.generate import metadata_buffers
from keras_lstmgen.config import recipe
from keras_lstmgen.tokenizers import vocabulary
from tests.hostile import VALUES, damaged

pytestmark = pytest.mark.slow

V, S = 291, 5
WORDS = vocabulary.train(
    recipe.Tokenizer(type="bpe", vocab_size=V - 256), lambda: iter(["the cat sat on the mat\n" * 9])
)
METADATA: dict[str, Any] = {
    "format_version": 1, "vocab_size": V, "state_size": S, "start_id": 3, "end_id": 2, "unsampled_ids": [0, 1],
    "prompt_start": False, "source_end_id": -1, "recipe": {},
}  # fmt: skip


def step(token: int, state: contract.Floats) -> tuple[contract.Floats, contract.Floats]:
    """A graph that any token and state go through, but those that are none."""
    logits = np.sin(np.arange(V, dtype=np.float32) * (1 + range(V)[token]))
    return logits, (state + np.float32(token)).reshape(S)


def writes(path: Path, metadata: bytes, words: bytes) -> bool:
    """Open an artifact that carries these two, and write with it. Whether it could be opened."""
    try:
        model = client.open_model(lambda _: (step, metadata, words), path)
        ids = contract.prompt_ids(kit.encode(model.tokenizer, "the 床\0 cat\n"), model.metadata)
    except ValueError:
        return False
    options = contract.Options(temperature=0.9, repetition_penalty=1.1)
    tokens = contract.generate(step, ids, model.metadata, options, seed=7, max_new_tokens=5)
    "".join(kit.decode_stream(model.tokenizer, tokens)).encode()
    beam.search(step, ids, model.metadata, beam.Options(2, 0.5), max_new_tokens=3)
    return True


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifact")


def test_what_is_whole_can_be_opened(path: Path) -> None:
    assert writes(path, json.dumps(METADATA).encode(), WORDS)


@given(st.dictionaries(st.sampled_from(list(METADATA)), VALUES, min_size=1, max_size=3))
@example({"unsampled_ids": [V]})
@example({"unsampled_ids": ["0"]})
@example({"unsampled_ids": 7})
@example({"source_end_id": V})
@example({"start_id": -1})
@example({"end_id": True})
@example({"state_size": 2**40})
def test_any_metadata_of_an_artifact_writes_or_is_refused(path: Path, changes: dict[str, Any]) -> None:
    writes(path, json.dumps(METADATA | changes).encode(), WORDS)


@given(damaged(json.dumps(METADATA).encode()), damaged(WORDS))
@example(b"[" * 100_000, WORDS)
@example(b"\xff", WORDS)
def test_any_bytes_that_an_artifact_carries_write_or_are_refused(path: Path, metadata: bytes, words: bytes) -> None:
    writes(path, metadata, WORDS)
    writes(path, json.dumps(METADATA).encode(), words)


def flatbuffer() -> bytes:
    """A TFLite file of nothing but the two metadata buffers."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = schema.ModelT()
    model.version, model.buffers, model.metadata = 3, [schema.BufferT()], []
    for name, data in {"keras_lstmgen": json.dumps(METADATA).encode(), "tokenizer": WORDS}.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data, entry.name, entry.buffer = np.frombuffer(data, np.uint8), name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


FILE = flatbuffer()


def test_the_buffers_of_a_file_are_what_was_put_in() -> None:
    assert metadata_buffers(FILE) == {"keras_lstmgen": json.dumps(METADATA).encode(), "tokenizer": WORDS}


BEGINNING = damaged(FILE[:60]).map(lambda head: head + FILE[60:])


@given(st.one_of(damaged(FILE), BEGINNING, st.binary().map(b"abcdTFL3".__add__)))
def test_any_bytes_are_a_tflite_file_or_refused(data: bytes) -> None:
    try:
        found = metadata_buffers(data)
    except ValueError:
        return
    assert sum(map(len, found.values())) <= len(found) * len(data)
