"""The parts of the C client, called one by one: tokenizer, noise and choice are those of the Python client."""

import ctypes
import json
import random
import re
import sys
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int32, c_longlong, c_size_t, c_void_p
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import contract, tokenizer
from tests import c_client
from tests.test_kit_contract import SEEDS, V, noise_of_the_page, oracle
from tests.test_kit_tokenizer import BYTES, KINDS, LINES, TEXTS, both, changed, train

ENOUGH = 8192  # bytes, for any struct of the client
Put = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)


class Ids(Structure):
    """``struct ids``."""

    _fields_ = (("at", POINTER(c_int32)), ("count", c_size_t), ("room", c_size_t))


class Options(Structure):
    """``struct options``."""

    _fields_ = (
        *((name, c_double) for name in ("repetition_penalty", "temperature", "top_p", "min_p")),
        ("top_k", c_longlong),
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library, with the types that ctypes cannot guess."""
    library = c_client.library(tmp_path_factory.mktemp("parts"))
    library.noise.restype, library.noise.argtypes = c_float, (ctypes.c_uint64, ctypes.c_uint32)
    for name in ("tokenizer_read", "metadata_read"):
        getattr(library, name).restype = c_char_p
        getattr(library, name).argtypes = (c_void_p, c_char_p, c_size_t)
    library.encode.restype = ctypes.c_bool
    library.encode.argtypes = (c_void_p, c_char_p, c_size_t, c_void_p)
    library.decode.argtypes = (c_void_p, c_void_p, c_int32, Put, c_void_p)
    library.out_of_range.restype = c_char_p
    return library


class CTokenizer:
    """A model that the C client has read."""

    def __init__(self, parts: ctypes.CDLL, model: bytes) -> None:
        self.parts, self.model, self.struct = parts, model, ctypes.create_string_buffer(ENOUGH)
        self.error = parts.tokenizer_read(self.struct, model, len(model))

    def __del__(self) -> None:
        self.parts.tokenizer_free(self.struct)

    def encode(self, text: str) -> list[int]:
        ids, data = Ids(), text.encode()
        assert self.parts.encode(self.struct, data, len(data), byref(ids))
        found = [ids.at[i] for i in range(ids.count)]
        ctypes.CDLL(None).free(ids.at)
        return found

    def decode_stream(self, ids: list[int]) -> Iterator[str]:
        """The text that each id completes; last, what is left over."""
        tail, said = ctypes.create_string_buffer(ENOUGH), list[bytes]()
        put = Put(lambda _, text, size: said.append(ctypes.string_at(text, size)))
        for i in ids:
            self.parts.decode(self.struct, tail, i, put, None)
            yield b"".join(said).decode()
            said.clear()
        self.parts.decode_end(tail, put, None)
        yield b"".join(said).decode()


@pytest.fixture(scope="module")
def opened(parts: ctypes.CDLL) -> dict[str, CTokenizer]:
    return {kind: CTokenizer(parts, train(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_encode_is_the_python_client_s(opened: dict[str, CTokenizer], kind: str, text: str) -> None:
    assert opened[kind].error is None
    assert opened[kind].encode(text) == tokenizer.encode(both(kind)[0], text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("between", ["\n", " "])
def test_encode_is_the_python_client_s_over_a_long_text(opened: dict[str, CTokenizer], kind: str, between: str) -> None:
    text = between.join(LINES * 100)
    assert opened[kind].encode(text) == tokenizer.encode(both(kind)[0], text)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_decode_is_the_python_client_s_for_any_ids(
    opened: dict[str, CTokenizer], kind: str, data: st.DataObject
) -> None:
    """Among them start, end and unknown symbols, and bytes that make no character."""
    kit = both(kind)[0]
    bytes_of_text = st.lists(BYTES, max_size=8).map(lambda parts: [kit.byte_ids[byte] for byte in b"".join(parts)])
    any_ids = st.lists(st.integers(0, len(kit.pieces) - 1))
    ids = data.draw(any_ids if kind == "word" else st.one_of(any_ids, bytes_of_text))
    assert "".join(opened[kind].decode_stream(ids)) == tokenizer.decode(kit, ids)


@given(text=TEXTS)
def test_a_stream_shows_each_character_with_its_last_byte(opened: dict[str, CTokenizer], text: str) -> None:
    kit = both("char")[0]
    ids = [kit.byte_ids[byte] for byte in text.encode()]
    assert list(opened["char"].decode_stream(ids)) == list(tokenizer.decode_stream(kit, ids))


RARE = {"ʘ": -2.0, "ʗʖ": -2.0, "ʘʗ": -2.0, "ʖ": -1.99999}


@pytest.mark.parametrize(
    ("model", "texts"),
    [
        (train("bpe", user_defined_symbols=["\n", "<x", "<xy>", "mat"]), ["<x<xy>", "mat\n\n<xy", "a mat <x>"]),
        (train("char", user_defined_symbols=["\n", "<x", "<xy>", "mat"]), ["<x<xy>", "mat\n\n<xy"]),
        (changed("bpe", types={"a": 4}), [" cat", "sat on a mat"]),
        (changed("unigram", types={"ʘʗ": 4}, scores={"ʘ": -1.0, "ʗ": -1.0, "ʘʗ": 0.0}), ["ʘʗʘ"]),
        (changed("unigram", scores=RARE), ["ʘʗʖ", "the cat sat " * 200 + "ʘʗʖ"]),
        (changed("word", scores={"\u2581\n": -1.0, "\u2581\u2581": -1.0}), ["The cat xxx yyy\n\nsat \n  on"]),
    ],
)
def test_symbols_and_sums_that_decide_a_cut_are_the_python_client_s(
    parts: ctypes.CDLL, model: bytes, texts: list[str]
) -> None:
    ours, kit = CTokenizer(parts, model), tokenizer.read(model)
    assert [ours.encode(text) for text in texts] == [tokenizer.encode(kit, text) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_cut_short_or_of_other_bytes_is_refused_or_read_like_any_other(
    parts: ctypes.CDLL, kind: str
) -> None:
    model, dice = train(kind), random.Random(7)
    for length in [*range(40), *(dice.randrange(len(model)) for _ in range(100))]:
        assert CTokenizer(parts, model[:length]).error == b"its tokenizer is not a SentencePiece model"
    for _ in range(200):
        damaged = bytearray(model)
        for _ in range(dice.choice([1, 3, 30])):
            damaged[dice.randrange(len(model))] = dice.randrange(256)
        read = CTokenizer(parts, bytes(damaged))
        if read.error is None:
            assert len(read.encode("the cat 猫\n 😀")) > 0
        else:
            assert read.error.startswith(b"its tokenizer ")


@pytest.mark.parametrize(
    "changes",
    [{"normalization_rule_name": "nmt_nfkc"}, {"add_dummy_prefix": True}, {"remove_extra_whitespaces": True}],
)
def test_a_model_that_changes_the_text_is_refused(parts: ctypes.CDLL, changes: dict[str, Any]) -> None:
    assert b"changes the text" in CTokenizer(parts, train("char", **changes)).error


@given(SEEDS, st.integers(0, 2**32 - 1))
def test_noise_is_the_formula_of_the_page(parts: ctypes.CDLL, seed: int, t: int) -> None:
    assert parts.noise(seed % 2**64, t) == noise_of_the_page(seed, t)


def choose(
    parts: ctypes.CDLL, logits: Any, u: float, seen: set[int], options: contract.Options, unsampled: set[int]
) -> int:
    size = len(logits)
    masks = [(ctypes.c_bool * size)(*(i in ids for i in range(size))) for ids in (seen, unsampled)]
    row, scratch = (c_float * size)(*logits), (c_float * size)()
    return int(parts.choose(row, c_size_t(size), c_float(u), *masks, byref(Options(**asdict(options))), scratch))


@settings(max_examples=400)
@given(
    logits=st.lists(st.sampled_from(np.arange(-4, 4.25, 0.25).tolist()), min_size=V, max_size=V),
    u=st.integers(0, 2**24 - 1).map(lambda bits: bits / 2**24),
    seen=st.sets(st.integers(0, V - 1)),
    unsampled=st.sets(st.integers(0, V - 1), max_size=V - 1),
    options=st.builds(
        contract.Options,
        repetition_penalty=st.sampled_from([0.5, 1.0, 1.25, 2.0]),
        temperature=st.sampled_from([0.0, 0.25, 0.75, 1.0, 2.0]),
        top_k=st.integers(0, V + 2),
        top_p=st.sampled_from([0.05, 0.3, 0.61, 0.9, 0.99, 1.0]),
        min_p=st.sampled_from([0.0, 0.013, 0.21, 0.77]),
    ),
)
def test_choose_is_the_table_of_the_page(
    parts: ctypes.CDLL,
    logits: list[float],
    u: float,
    seen: set[int],
    unsampled: set[int],
    options: contract.Options,
) -> None:
    wanted = oracle(logits, u, seen, options, unsampled)
    assume(wanted is not None)
    assert choose(parts, logits, u, seen, options, unsampled) == wanted


def test_choose_is_the_python_client_s_over_a_large_vocabulary(parts: ctypes.CDLL) -> None:
    dice = np.random.default_rng(3)
    mixes = [contract.Options(top_p=0.9), contract.Options(top_k=50, min_p=0.001), contract.Options(temperature=1.3)]
    for options in mixes * 10:
        logits, u = dice.normal(0, 3, 4321).astype(np.float32), float(dice.integers(2**24) / 2**24)
        seen, unsampled = (set(dice.integers(0, 4321, 99).tolist()) for _ in range(2))
        mask = np.isin(np.arange(4321), list(seen))
        wanted = contract.choose(logits, u, mask, options, sorted(unsampled))
        assert choose(parts, logits, u, seen, options, unsampled) == wanted


def test_rounding_that_leaves_no_id_above_the_noise_falls_to_the_last_one_kept(parts: ctypes.CDLL) -> None:
    """A cumulative sum never exceeds a noise of 1, which stands for the sum's rounding here."""
    assert choose(parts, [1.0, 1.0, 0.0, -9.0], 1.0, set(), contract.Options(top_k=2), set()) == 1


OPTIONS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_out_of_range_where_the_python_client_says_so_in_the_same_words(
    parts: ctypes.CDLL, option: str
) -> None:
    reals = [-1.0, -0.1, 0.0, 1e-7, 1e-6, 0.5, 1.0, 1.001, 1e6, 1e7, float("nan"), float("inf"), float("-inf")]
    values = [-1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1] if option == "top_k" else reals
    for value in values:
        said = parts.out_of_range(byref(Options(**asdict(contract.Options()) | {option: value})))
        assert (said or b"").decode() == said_in_python(**{option: value}), value


def said_in_python(**options: float) -> str:
    """What the Python client says of options; nothing if they are in their ranges."""
    try:
        contract.Options(**options)  # type: ignore[arg-type]  # top_k is whole where it is given
    except ValueError as error:
        return str(error)
    return ""


JSON = {
    "vocab_size": 9, "state_size": 4, "start_id": 1, "end_id": 2, "unsampled_ids": [0, 8], "prompt_start": True,
    "source_end_id": 3,
    "recipe": {"name": '語 "quoted" \\ \n', "empty": [{}, [], ""], "numbers": [-1.5e-7, 0, 1e9, None, True, False]},
    "metrics": {}, "format_version": 1,
}  # fmt: skip


def read_json(parts: ctypes.CDLL, text: str | bytes) -> str | None:
    """What ``metadata_read`` says."""
    data = text if isinstance(text, bytes) else text.encode()
    struct = ctypes.create_string_buffer(ENOUGH)
    said = parts.metadata_read(struct, data, len(data))
    parts.metadata_free(struct)
    return None if said is None else said.decode()


def test_metadata_is_read_whatever_else_the_json_holds(parts: ctypes.CDLL) -> None:
    for text in (json.dumps(JSON), json.dumps(JSON, ensure_ascii=False, indent=2), json.dumps(JSON) + "\n "):
        assert read_json(parts, text) is None


@pytest.mark.parametrize("name", sorted(JSON.keys() - {"recipe", "metrics", "prompt_start", "source_end_id"}))
def test_metadata_that_lacks_a_value_is_refused_in_the_python_client_s_words(parts: ctypes.CDLL, name: str) -> None:
    text = json.dumps({key: value for key, value in JSON.items() if key != name})
    said = read_json(parts, text)
    assert said is not None
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        contract.read_metadata(text)


def test_json_that_is_none_is_refused(parts: ctypes.CDLL) -> None:
    text = json.dumps(JSON)
    broken = [text[:length] for length in range(len(text))]
    broken += [text + "}", text.replace("9", '"9"'), text.replace("true", "tru"), "[" * 100_000, text.replace(":", ";")]
    broken += [json.dumps(JSON | {name: 9}) for name in ("start_id", "end_id", "source_end_id")]
    broken += [json.dumps(JSON | {"unsampled_ids": ids}) for ids in ([9], [-1], [1.5], ["1"], 3)]
    for case in broken:
        assert read_json(parts, case) == "its metadata is damaged, or not JSON", case
    assert read_json(parts, text.encode().replace(b"quoted", b"\xff")) == "its metadata is damaged, or not JSON"
