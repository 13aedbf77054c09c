"""Next words, held against every way that a small model could go on, one by one."""

import io
import itertools
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run
from keras_lstmgen.training import trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import client, contract
from export.tflite import suggest
from export.tflite.generate import load
from export.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Tokenizer, encode
from tests.conftest import SMALL

S = 2
DEEPEST = 5  # pieces, behind which the oracle does not look
FIXED = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, "\n": USER_DEFINED}
LEARNED = {
    "char": dict.fromkeys("ab▁c,", NORMAL),
    "bpe": dict.fromkeys(("a", "b", "▁", "ab", "▁a", "ba", "a'"), NORMAL),
    "unigram": {"a": NORMAL, "▁": NORMAL, "▁ab": NORMAL, "<0xE7>": BYTE, "<0x8C>": BYTE, "<0xAB>": BYTE},
    "word": dict.fromkeys(("a", "▁a", "▁ab", "ab", "▁b,", "▁", "▁abab"), NORMAL),
}
UNSAMPLED = (0, 1)


def small_model(kind: str, seed: int) -> client.Model:
    """Random weights over some ten pieces; what ends a word is likely, so that few words are long."""
    pieces = FIXED | LEARNED[kind]
    V, dice = len(pieces), np.random.default_rng(seed)
    W, U, E = dice.normal(0, 1.5, (S, V)), dice.normal(0, 1, (S, S)), dice.normal(0, 1, (V, S))
    tokenizer = Tokenizer(kind, tuple(pieces), (-1.0,) * V, tuple(pieces.values()), False, " ⁇")
    bias = np.array([2.5 if piece in ("</s>", "\n", "▁") else 0.0 for piece in pieces])

    def step(token: int, state: Any) -> tuple[Any, Any]:
        state = np.tanh(state @ U + E[token]).astype(np.float32)
        return (state @ W + bias).astype(np.float32), state

    return client.Model(step, contract.Metadata(V, S, 1, 2, UNSAMPLED), tokenizer)


def every_text(model: client.Model, token: int, state: Any, depth: int = DEEPEST) -> list[tuple[bytes, float]]:
    """All that the model can write in so many pieces, or up to its end, which is a newline here."""
    kit = model.tokenizer
    logits, state = model.step(token, state)
    shares = {i: math.exp(logit) for i, logit in enumerate(logits.tolist()) if i not in UNSAMPLED}
    texts = []
    for i, share in shares.items():
        p = share / sum(shares.values())
        if i == model.metadata.end_id:
            texts.append((b"\n", p))
            continue
        spelled = bytes([int(kit.pieces[i][3:5], 16)]) if kit.types[i] == BYTE else kit.pieces[i].encode()
        rest = every_text(model, i, state, depth - 1) if depth > 1 else [(b"", 1.0)]
        texts += [(spelled.replace("▁".encode(), b" ") + more, p * q) for more, q in rest]
    return texts


def oracle(model: client.Model, typed: str) -> tuple[Counter[str], float]:
    """The probability of each word, and how much of all probability is of texts too short to tell."""
    cut = max((i + 1 for i, sign in enumerate(typed) if not (sign.isalnum() or sign in " '’")), default=0)
    cut = max(cut, typed.rfind(" "))
    ids = contract.prompt_ids(encode(model.tokenizer, typed[:cut]), model.metadata)
    state = np.zeros(S, np.float32)
    for token in ids[:-1]:
        _, state = model.step(token, state)
    begun, words, agreeing, open_end = typed[cut:].encode(), Counter[str](), 0.0, 0.0
    for text, p in every_text(model, ids[-1], state):
        if text.startswith(begun):
            agreeing += p
            found = re.match(r" ?([a-z'猫]+)[ ,\n]", text.decode(errors="replace"))
            words[found[1] if found else ""] += p  # type: ignore[assignment]  # counters of parts are fine
            open_end += p * bool(re.fullmatch(rb" ?[a-z'\x80-\xff]*", text))
    del words[""]
    return Counter({word: p / agreeing for word, p in words.items()}), open_end / (agreeing or 1)


# Not all of these can be written by each model.
TYPED = ("", "a", " ", "b a", "a ab", "a\n", "a, a", "猫", "aba'")


@pytest.mark.parametrize("kind", LEARNED)
def test_probabilities_are_those_of_all_ways_to_go_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "RARE", 1e-4)
    monkeypatch.setattr(suggest, "MAX_STEPS", 3_000)
    told = 0
    for seed, typed in zip(itertools.cycle(range(3)), TYPED, strict=False):
        model = small_model(kind, seed)
        expected, unknown = oracle(model, typed)
        found = suggest.suggest(model, suggest.pieces_of(model), typed)
        assert min(3, len(expected)) <= len(found) <= 3
        for word, p in found:
            assert expected[word] - 1e-4 <= p <= expected[word] + unknown + 1e-4, (typed, word)
        best = [p for _, p in expected.most_common(3)]
        assert all(p >= least - 1e-4 for (_, p), least in zip(found, best, strict=False)), (typed, found, expected)
        told += bool(expected) and unknown < 0.02
    assert told >= 3


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("seed", range(4))
def test_the_search_as_it_is_shows_the_three_likeliest_words(kind: str, seed: int) -> None:
    model = small_model(kind, seed)
    for typed in ("a", "a "):
        expected, unknown = oracle(model, typed)
        found = suggest.suggest(model, suggest.pieces_of(model), typed)
        for (word, p), (_, best) in zip(found, expected.most_common(3), strict=True):
            assert 0.85 * expected[word] <= p <= expected[word] + unknown + 1e-9  # what is rare is left out
            assert expected[word] >= 0.85 * best - unknown


def test_what_the_model_cannot_write_has_no_words() -> None:
    model = small_model("char", 0)
    assert suggest.suggest(model, suggest.pieces_of(model), "axyz") == []


def test_a_search_that_finds_no_end_gives_up() -> None:
    """Nothing ends a word here: the end, newlines, spaces and commas are never written."""
    model = small_model("char", 0)
    kept = [i for i, piece in enumerate(model.tokenizer.pieces) if piece in "abc"]
    unsampled = tuple(i for i in range(model.metadata.vocab_size) if i not in kept)
    endless = client.Model(
        model.step, contract.Metadata(model.metadata.vocab_size, S, 1, 2, unsampled), model.tokenizer
    )
    assert suggest.suggest(endless, suggest.pieces_of(endless), "a") == []


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on words, of English lines alone."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "lines.txt").write_text("the moon is bright\nthe frost was white\n" * 90, encoding="utf-8")
    values = SMALL | {
        "corpus.source": [str(folder / "lines.txt")], "corpus.documents": "lines", "tokenizer.type": "word",
        "corpus.validation": [str(folder / "lines.txt")], "training.epochs": 8, "training.learning_rate": 0.03,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), values)
    run = trainer.train(settings, folder / "runs", "words").folder
    export_run.export(run, recipe.Export(formats=("tflite",), texts=4, tokens=9))
    return run / "tflite/model.tflite"


def typed_at(model: Path, *words: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    """What the command prints."""
    command = [sys.executable, suggest.__file__, str(model), *words]
    return subprocess.run(command, input=lines, capture_output=True, text=True, encoding="utf-8")


def test_a_model_of_words_ends_the_word_that_is_typed(words: Path) -> None:
    done = typed_at(words, lines="the\nthe \nthe moon i\nthe frost w\n")
    assert done.returncode == 0, done.stderr
    first = [line.split("%")[0].rpartition(" ")[0] for line in done.stdout.splitlines()]
    assert first[0] == "the"
    assert first[1] in ("moon", "frost")
    assert first[2:] == ["is", "was"]


@pytest.mark.parametrize("fixture", ["trained", "trained_lines"])
def test_each_kind_of_artifact_suggests_words_that_begin_as_typed(request: pytest.FixtureRequest, fixture: str) -> None:
    model = client.open_model(load, request.getfixturevalue(fixture) / "tflite/model.tflite")
    pieces = suggest.pieces_of(model)
    for typed, begun in (("the mo", "mo"), ("the", "the"), ("床\nt", "t"), ("is ", "")):
        found = suggest.suggest(model, pieces, typed)
        assert all(word.startswith(begun) and word for word, _ in found)
        shares = [p for _, p in found]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-9
        assert len({word for word, _ in found}) == len(found)


def test_one_text_gives_one_line_as_standard_input_does(words: Path) -> None:
    one, line = typed_at(words, "the m"), typed_at(words, lines="the m\n")
    assert one.stdout == line.stdout
    assert re.fullmatch(r"moon \d+\.\d%(   \S+ \d+\.\d%){2}\n", one.stdout)


def test_bad_input_is_one_line_and_exit_status_2(words: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(words.read_bytes()[:5000])
    for model, line in ((tmp_path / "none", "there is no such model"), (tmp_path / "damaged", "cannot be used")):
        done = typed_at(model, "the")
        assert (done.returncode, done.stdout) == (2, "")
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_standard_input_is_read_as_utf8_whatever_the_terminal_says(
    words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["suggest.py", str(words)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("床\nthe\n".encode()), encoding="ascii"))
    assert suggest.main() == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
