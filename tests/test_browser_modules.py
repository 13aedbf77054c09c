"""The page's modules, run in Node: bit for bit what ``export/contract.py`` and ``export/tokenizer.py`` do in Python."""

import base64
import json
import math
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.tokenizers import vocabulary
from keras_lstmgen.tokenizers.sentencepiece_proto import proto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import contract, tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests/browser/answers.mjs"
LINES = [
    "A language model reads one token after another and says which token may come next.",
    "The cat sat on the mat, the dog sat on the log; the catalogue says so (a.b|c)* <x>.",
    "语言模型一个接一个地读取标记，并说出下一个标记可能是什么。猫坐在垫子上，狗坐在木头上。",
    "Emoji 😀 and 🚀 and 👩‍🚀 are characters too, 😀😀; so are \ufeff and e\u0301.",
]
SIZES = {"char": 0, "word": 40, "bpe": 0, "unigram": 0}
ODD = [
    "\n",
    " ",
    "  ",
    " \n",
    "\t",
    "<s>",
    "</s>",
    "<0x41>",
    "\u2581",
    "ʘ",
    "한",
    "😀",
    "\ufeff",
    "\x00",
    "\r\n",
    "ʘʗ",
    "(*",
]
HAIR = 2e-6  # of a probability, by which sums of float32 may differ between two libraries

Answers = Callable[[list[dict[str, Any]]], list[Any]]


@pytest.fixture(scope="module")
def ask() -> Answers:
    """Put a list of questions to the modules."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")

    def ask(questions: list[dict[str, Any]]) -> list[Any]:
        command = [node, str(SCRIPT), str(ROOT / "export/browser")]
        done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout)
        return answers

    return ask


def packed(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def test_noise_is_bit_for_bit_that_of_python(ask: Answers) -> None:
    dice = random.Random(0)
    seeds = [
        0,
        1,
        -1,
        7,
        2**32,
        2**32 - 1,
        2**63,
        2**64 - 1,
        -(2**63),
        *(dice.randrange(-(2**63), 2**64) for _ in range(300)),
    ]
    starts = [0, 1, 2**24, 2**32 - 3, *(dice.randrange(2**33) for _ in seeds[4:])]
    cases = list(zip(seeds, starts, strict=True))
    found = ask([{"ask": "noise", "seed": str(seed), "n": 9, "start": start} for seed, start in cases])
    for (seed, start), numbers in zip(cases, found, strict=True):
        assert numbers == (contract.noise(seed, 9, start).astype(np.float64) * 2**24).tolist()
    assert ask([{"ask": "noise", "seed": "-1", "n": 3, "start": 0}]) == [[121041, 14787007, 6873863]]


Choice = tuple[Any, float, Any, contract.Options, list[int]]


def choices() -> Iterator[Choice]:
    """Logits as models have them and with many equals, of vocabularies small and large, under mixes of all options."""
    dice = np.random.default_rng(0)
    for V, n in ((8, 1500), (362, 600), (33_000, 60)):
        for i in range(n):
            logits = dice.normal(0, dice.uniform(0.1, 5), V)
            logits = (np.round(logits * 4) / 4 if i % 3 == 0 else logits).astype(np.float32)
            seen = dice.random(V) < dice.uniform(0, 0.5)
            unsampled = np.flatnonzero(dice.random(V - 1) < 0.2).tolist()
            yield logits, float(contract.noise(i, 1)[0]), seen, mixed(dice, V), unsampled


def mixed(dice: np.random.Generator, V: int) -> contract.Options:
    """Each option off in about half of the cases."""

    def either(value: Any, neutral: Any) -> Any:
        return value if dice.random() < 0.5 else neutral

    return contract.Options(
        repetition_penalty=either(float(np.exp(dice.normal())), 1.0),
        temperature=either(float(dice.choice([0.0, 1e-6, 0.3, 0.7, 1.3, 2.5, 1e6])), 1.0),
        top_k=either(int(dice.integers(1, V + 3)), 0),
        top_p=either(float(dice.uniform(0.01, 1)), 1.0),
        min_p=either(float(dice.choice([0.001, 0.05, 0.5, 1.0])), 0.0),
    )


def test_a_token_is_chosen_as_in_python(ask: Answers) -> None:
    """Two libraries' exponentials differ in the last bit; then a choice may be that of a noise or top_p a hair away."""
    cases = list(choices())
    asked = [
        {"ask": "choose", "logits": packed(logits), "number": number, "seen": packed(seen), "options": vars(options),
         "sampled": packed(~np.isin(np.arange(len(logits)), unsampled))}
        for logits, number, seen, options, unsampled in cases
    ]  # fmt: skip
    found = ask(asked)
    expected = [contract.choose(*case) for case in cases]
    other = [i for i in range(len(cases)) if found[i] != expected[i]]
    assert len(other) <= len(cases) / 200
    for i in other:
        assert found[i] in a_hair_away(*cases[i]), cases[i]
    assert len({(len(case[0]), token) for case, token in zip(cases, expected, strict=True)}) > len(cases) / 8


def a_hair_away(logits: Any, number: float, seen: Any, options: contract.Options, unsampled: list[int]) -> set[int]:
    """What is chosen by almost the same noise, with almost the same ``top_p``."""
    nuclei = [replace(options, top_p=min(options.top_p + hair, 1.0)) for hair in (-HAIR, 0, HAIR) if options.top_p < 1]
    numbers = [number + hair * HAIR for hair in np.linspace(-1, 1, 9)]
    return {contract.choose(logits, u, seen, near, unsampled) for near in nuclei or [options] for u in numbers}


def test_logprobs_are_those_of_a_softmax_in_float64(ask: Answers) -> None:
    logits = [np.random.default_rng(V).normal(0, 4, V).astype(np.float32) for V in (7, 362, 33_000)]
    found = ask([{"ask": "logprob", "logits": packed(values), "id": 5} for values in logits])
    for values, logprob in zip(logits, found, strict=True):
        powers = np.exp(values.astype(np.float64))
        assert logprob == pytest.approx(math.log(powers[5] / powers.sum()), abs=1e-12)


def test_an_option_out_of_range_is_an_error_that_names_it(ask: Answers) -> None:
    bad: dict[str, list[Any]] = {
        "repetition_penalty": [0, -1, "NaN", "Infinity", 1e-7, 1e7],
        "temperature": [-0.1, "NaN", "Infinity", 1e-7, 1e7],
        "top_k": [-1, 2**31, 1.5, "NaN"],
        "top_p": [0, -0.5, 1.001, "NaN"],
        "min_p": [-0.1, 1.001, "NaN"],
    }
    cases = [(name, value) for name, values in bad.items() for value in values]
    found = ask([{"ask": "options", "changes": {name: value}} for name, value in cases])
    assert [message.partition(" ")[0] for message in found] == [name for name, _ in cases]
    good = {"repetition_penalty": 1e-6, "temperature": 0, "top_k": 2**31 - 1, "top_p": 1e-9, "min_p": 1}
    assert ask([{"ask": "options", "changes": good}]) == [None]


def test_metadata_of_another_format_is_refused(ask: Answers) -> None:
    whole = {"format_version": 1, "vocab_size": 3, "state_size": 2, "start_id": 1, "end_id": 2, "unsampled_ids": []}
    jsons = [whole, whole | {"format_version": 2}, {"format_version": 1}, []]
    found = ask([{"ask": "metadata", "json": json.dumps(values)} for values in jsons])
    old = "its metadata is not of format_version 1"
    assert found == [None, old, "its metadata lacks vocab_size", old]


def test_metadata_that_leaves_nothing_to_write_is_refused(ask: Answers) -> None:
    whole = {"format_version": 1, "vocab_size": 3, "state_size": 2, "start_id": 1, "end_id": 2}
    jsons = [whole | {"unsampled_ids": ids} for ids in ([2, 1, 0], [1, 1, 1], [])]
    found = ask([{"ask": "metadata", "json": json.dumps(values)} for values in jsons])
    assert found == ["its metadata excludes all ids from generation", None, None]


def trained(kind: str) -> bytes:
    return vocabulary.train(recipe.Tokenizer(type=kind, vocab_size=SIZES[kind]), lambda: iter(LINES))


def with_symbols(kind: str) -> bytes:
    """A model in which some pieces are always cut out whole, such as a regular expression would read otherwise."""
    model = proto.ModelProto.FromString(trained(kind))
    for name in ("ʘʗ", "ʘ", "(*", "a.b", "的"):
        model.pieces.add(piece=name, score=0.0, type=4)
    return bytes(model.SerializeToString())


def texts() -> list[str]:
    """Texts near the training text, so that long pieces compete, and texts of anything at all."""
    dice = random.Random(0)
    words = [*re.findall(r"\w+|\W", " ".join(LINES)), *ODD]
    near = ["".join(dice.choices(words, k=dice.randrange(40))) for _ in range(250)]
    characters = [chr(i) for i in (*range(1, 0x300), *range(0x2570, 0x2590), *range(0xFFF0, 0x10010), 0x10FFFF)]
    return [
        "",
        *ODD,
        *LINES,
        *near,
        *("".join(dice.choices(characters, k=30)) for _ in range(50)),
        " ".join(LINES * 40),
    ]


def ids_of(pieces: tokenizer.Tokenizer) -> list[list[int]]:
    """Any ids, and bytes that make characters, halves of some and none."""
    dice = random.Random(1)
    some = [dice.choices(range(len(pieces.pieces)), k=dice.randrange(30)) for _ in range(150)]
    parts = [0x41, 0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xE7, 0xED, 0xEF, 0xF0, 0xF4, 0xF5]
    spelt = [bytes(dice.choices(parts, k=12)) for _ in range(400)]
    spelt += ["語😀é".encode()[:n] for n in range(10)]
    return [*some, *([pieces.byte_ids[byte] for byte in word] for word in spelt if pieces.byte_ids)]


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("make", [trained, with_symbols])
def test_a_tokenizer_encodes_and_decodes_as_in_python(ask: Answers, kind: str, make: Callable[[str], bytes]) -> None:
    model = make(kind)
    pieces, lines = tokenizer.read(model), texts()
    ids = ids_of(pieces)
    assert pieces.kind == kind
    assert (make is with_symbols) == (len(pieces.user_defined) > 1)
    [found] = ask([{"ask": "tokenizer", "model": base64.b64encode(model).decode(), "texts": lines, "ids": ids}])
    for line, encoded in zip(lines, found["encoded"], strict=True):
        assert encoded == tokenizer.encode(pieces, line), line
    for row, stream in zip(ids, found["streams"], strict=True):
        expected = list(tokenizer.decode_stream(pieces, row))
        assert "".join(stream) == "".join(expected), row
        # Python waits for the third byte of a surrogate, though none makes a character of it.
        assert stream == expected or pieces.byte_ids.get(0xED) in row, row


def test_a_tokenizer_that_is_damaged_or_changes_the_text_is_refused(ask: Answers) -> None:
    whole = trained("bpe")
    changing = proto.ModelProto.FromString(whole)
    changing.normalizer_spec.add_dummy_prefix = True
    models = [b"", whole[:1], whole[:50], whole[:-1], b"\x0a\x03abc", changing.SerializeToString()]
    asked = [
        {"ask": "tokenizer", "model": base64.b64encode(model).decode(), "texts": [], "ids": []} for model in models
    ]
    *damaged, changed = [answer["error"] for answer in ask(asked)]
    assert damaged == ["its tokenizer is not a SentencePiece model"] * 5
    assert changed.startswith("its tokenizer changes the text")
