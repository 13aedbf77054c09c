"""What ``inspect`` shows is what the model does: gates of the equations, cells that are there, the text as it is."""

import json
import re
import shlex
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import splits
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.interpret import activations, html_page, inspect_run, probes, token_texts
from keras_lstmgen.layers import attention
from keras_lstmgen.models import builder, inference_step, run_directory
from keras_lstmgen.reporting import plots
from keras_lstmgen.tokenizers.tokenizer import END, START
from keras_lstmgen.training import trainer

B, T, E, H, L, M, V = 2, 11, 3, 5, 3, 4, 7
Array = np.ndarray[Any, Any]
NAMES = ("forget.png", "input.png", "output.png", "cell.png", "next.png", "text.png", "text.html")


def built(slots: int = 0) -> inference_step.Weights:
    """A model whose weights are large enough for its gates to open and shut."""
    network = builder.build(recipe.Model(embedding_size=E, units=H, layers=L, dropout=0.0, attention=slots), V)
    dice = np.random.default_rng(2)
    network.set_weights([dice.normal(0, 1, weight.shape) for weight in network.get_weights()])
    return inference_step.weights_of(network)


IDS = np.random.default_rng(3).integers(0, V, T)
PLAIN, LOOKING = built(), built(M)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def oracle(weights: inference_step.Weights, ids: Array, state: Array) -> tuple[list[list[Array]], Array]:
    """The equations in float64: for each layer the gates i, f, g, o and the cell, [B, T, H]; and h [B, T, H] above."""
    x, found = np.asarray(weights.embedding, np.float64)[ids], []
    for layer, cell in enumerate(weights.cells):
        W, U, b = (np.asarray(part, np.float64) for part in cell)
        h, c = (state[:, n * H : (n + 1) * H].astype(np.float64) for n in (2 * layer, 2 * layer + 1))
        rows = []
        for t in range(ids.shape[1]):
            z = x[:, t] @ W + h @ U + b
            i, f, o = (sigmoid(z[:, n * H : (n + 1) * H]) for n in (0, 1, 3))
            g = np.tanh(z[:, 2 * H : 3 * H])
            c = f * c + i * g
            h = o * np.tanh(c)
            rows.append((i, f, g, o, c, h))
        *seen, x = (np.stack(values, axis=1) for values in zip(*rows, strict=True))
        found.append(seen)
    return found, x


def test_the_gates_of_every_layer_are_those_of_the_equations() -> None:
    dice = np.random.default_rng(4)
    ids, state = dice.integers(0, V, (B, T)), dice.normal(size=(B, 2 * L * H)).astype(np.float32)
    expected, _ = oracle(PLAIN, ids, state)
    for t in range(T):
        seen = inference_step.traced_step(PLAIN, ids[:, t], state)
        state = seen.state.numpy()
        for layer, (*of_layer, c) in enumerate(expected):
            for gate, wanted in zip(seen.gates[layer], of_layer, strict=True):
                np.testing.assert_allclose(gate, wanted[:, t], atol=1e-5)
            np.testing.assert_allclose(state[:, (2 * layer + 1) * H : (2 * layer + 2) * H], c[:, t], atol=1e-5)


@pytest.mark.parametrize("layer", range(L))
def test_a_trace_holds_the_gates_and_cells_of_its_layer_and_the_logits(layer: int) -> None:
    expected, h = oracle(PLAIN, IDS[np.newaxis], np.zeros((1, 2 * L * H)))
    found = activations.trace(PLAIN, IDS, layer, activations.initial_state(PLAIN))
    wanted = dict(zip(("input", "forget", "candidate", "output", "cells"), expected[layer], strict=True))
    for name, values in wanted.items():
        np.testing.assert_allclose(getattr(found, name), values[0], atol=1e-5, err_msg=name)
    logits = h[0] @ np.asarray(PLAIN.output, np.float64) + np.asarray(PLAIN.output_bias)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    assert found.attention_weights is None


@pytest.mark.parametrize("weights", [PLAIN, LOOKING], ids=["plain", "attention"])
def test_the_gates_rebuild_the_states_and_logits_of_the_step_that_writes(weights: inference_step.Weights) -> None:
    found = activations.trace(weights, IDS, L - 1, activations.initial_state(weights))
    state, before = tf.constant(activations.initial_state(weights)), np.zeros(H)
    for t, token in enumerate(IDS):
        logits, state = inference_step.step(weights, tf.constant([token]), state)
        parts, _ = inference_step.split_state(weights, state)
        cell = found.forget[t] * before + found.input[t] * found.candidate[t]
        np.testing.assert_allclose(cell, parts[-1][0], atol=1e-6)
        np.testing.assert_allclose(found.output[t] * np.tanh(cell), parts[-2][0], atol=1e-6)
        np.testing.assert_allclose(found.logits[t], logits[0], rtol=1e-4, atol=1e-5)
        before = found.cells[t]


@pytest.mark.parametrize("cut", [0, 1, 4, T])
def test_a_text_read_in_windows_has_the_cells_of_the_whole(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "WINDOW", 3)
    for layer in range(L):
        read = activations.cell_reader(LOOKING, layer)
        first, state = read(IDS[:cut], activations.initial_state(LOOKING))
        second, _ = read(IDS[cut:], state)
        whole = activations.trace(LOOKING, IDS, layer, activations.initial_state(LOOKING)).cells
        np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)
        assert (first.shape, second.shape) == ((cut, H), (T - cut, H))


@pytest.mark.parametrize("cut", [0, 2, 6])
def test_looks_are_those_of_the_attention_over_the_whole_text(cut: int) -> None:
    """Of a trace that begins later, what lies before it is left out, and nothing is put in its place."""
    _, h = oracle(LOOKING, IDS[np.newaxis], np.zeros((1, 2 * L * H)))
    nothing = np.zeros((1, M, 2 * attention.SIZE + 1), np.float32)
    assert LOOKING.heads
    *_, looks = attention.attend(LOOKING.heads, h.astype(np.float32), nothing)
    _, state = activations.cell_reader(LOOKING, 0)(IDS[:cut], activations.initial_state(LOOKING))
    found = activations.trace(LOOKING, IDS[cut:], 0, state).attention_weights
    assert found is not None
    np.testing.assert_allclose(found, looks[0, cut:, M + cut :], atol=1e-5)


# The page


class Reader(HTMLParser):
    """Collects the text of each passage, and whatever would run or be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.passages: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "p" and ("class", "text") in attributes:
            self.passages.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.passages[-1] += data


@given(st.lists(st.text(max_size=5), max_size=8))
def test_the_page_holds_the_text_as_it_is_and_nothing_that_runs(parts: list[str]) -> None:
    page = html_page.page("<b>", "a & b", [html_page.Passage("</h2>", parts, np.linspace(-2, 1, len(parts)))])
    found = Reader(page)
    assert found.passages == ["".join(parts).replace("\n", "↵\n")]
    assert {tag for tag, _ in found.tags} <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span"}
    assert not {"src", "href"} & {name for _, attributes in found.tags for name in attributes}


def test_a_character_is_the_bluer_the_lower_its_cell_and_the_redder_the_higher() -> None:
    page = html_page.page("", "", [html_page.Passage("", "abc", np.array([-3.0, 0.0, 3.0]))])
    rules = dict(re.findall(r"\.(s\d+) \{ background: #(\w{6})", page))
    low, none, high = (rules[shade] for shade in re.findall(r'<span class="(s\d+)"', page))
    assert none == "ffffff"
    assert int(low[:2], 16) < int(low[4:], 16)
    assert int(high[:2], 16) > int(high[4:], 16)
    assert re.findall(r'title="([^"]*)"', page) == ["-3.00", "+0.00", "+3.00"]


# The verb


def inspected(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Standard output of ``inspect`` with these words, which succeeds."""
    capsys.readouterr()
    status = command_line.main(["inspect", *map(str, words)])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def page_of(folder: Path) -> Reader:
    return Reader((folder / "text.html").read_text(encoding="utf-8"))


def test_pictures_and_page_are_written_whole_into_the_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = inspected(capsys, copied, "--prompt", "The <b>", "--max-new-tokens", "9", "--seed", "4", "--top-k", "5")
    folder = copied / "inspect"
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    for name in NAMES[:-1]:
        assert tf.io.decode_png((folder / name).read_bytes()).shape[1] >= 600
    text = (
        Generator(run_directory.load(copied))
        .generate("The <b>", GenerationConfig(9, Options(top_k=5)), seeds=[4])[0]
        .text
    )
    assert page_of(folder).passages[0] == f"The <b>{text}".replace("\n", "↵\n")
    words = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    assert words == ["keras-lstmgen", "evaluate", str(copied)]


def test_files_of_others_in_the_folder_stay(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    before = sorted(trained.iterdir())
    for _ in range(2):
        inspected(capsys, trained, "--prompt", "a", "--output", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*NAMES, "mine.png"])
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert sorted(trained.iterdir()) == before


def test_the_likeliest_tokens_of_the_table_are_those_of_the_model(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = inspected(capsys, trained, "--prompt", "The\n", "--output", tmp_path)
    rows = [line.split() for line in out.splitlines()]
    printed = rows[rows.index(["after", "1", "2", "3", "4", "5"]) + 2 :][:4]
    loaded = run_directory.load(trained)
    probabilities = tf.nn.softmax(loaded.model(np.array([loaded.prompt_ids("The\n")]))[0]).numpy()
    for letter, row, shares in zip("The↵", printed, probabilities, strict=True):
        best = np.argsort(-shares, kind="stable")[:5]
        said = [re.sub("\n", "↵", loaded.tokenizer.decode([token])).replace(" ", "␣") for token in best]
        assert row[0] == letter
        assert row[1::2] == said
        assert row[2::2] == [f"{shares[token]:.0%}" for token in best]


def test_a_text_longer_than_a_picture_is_coloured_whole_and_its_end_is_drawn(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = inspected(capsys, trained, "--prompt", "abcdefgh" * 3, "--output", tmp_path / "whole")
    monkeypatch.setattr(inspect_run, "MAX_DRAWN_TOKENS", 5)
    end = inspected(capsys, trained, "--prompt", "abcdefgh" * 3, "--output", tmp_path / "end")
    rows = [re.findall(r"^  ([a-h] .*%)", out, re.MULTILINE) for out in (whole, end)]
    assert (len(rows[0]), rows[1]) == (24, rows[0][-5:])
    assert page_of(tmp_path / "whole").passages[0] == page_of(tmp_path / "end").passages[0] == "abcdefgh" * 3


def planted(folder: Path) -> run_directory.Run:
    """A run whose cell 7 of layer 2 is high after an upper-case letter, low after any other, whatever came before."""
    loaded = run_directory.load(folder)
    H, E = 12, 5
    embedding, W1, U1, b1, W2, U2, b2, *output = loaded.model.get_weights()
    upper = [loaded.tokenizer.decode([token]).isupper() for token in range(len(embedding))]
    embedding[:, 0] = np.where(upper, 1, -1)
    assert (embedding.shape[1], U1.shape[0]) == (E, H)
    for W, U, b, source, unit in ((W1, U1, b1, 0, 3), (W2, U2, b2, 3, 7)):
        for gate, bias in enumerate((9, -9, 0, 9)):  # let in, forget, as it comes, let out
            column = gate * H + unit
            W[:, column], U[:, column], b[column] = 0, 0, bias
        W[source, 2 * H + unit] = 4
    loaded.model.set_weights([embedding, W1, U1, b1, W2, U2, b2, *output])
    return loaded


@pytest.fixture
def capitals(tmp_path: Path) -> Path:
    """A text with capitals in irregular places."""
    dice = np.random.default_rng(6)
    words = ("the state", "Of Each", "cell IS", "seen", "Here", "and", "THERE")
    path = tmp_path / "capitals.txt"
    path.write_text(" ".join(dice.choice(words, 300)), encoding="utf-8")
    return path


def test_a_planted_cell_is_found_and_follows_the_other_half_too(
    copied: Path, capitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = planted(copied)
    ids = loaded.tokenizer.encode(capitals.read_text(encoding="utf-8"))
    cells, _ = activations.cell_reader(loaded.weights, 1)(ids, activations.initial_state(loaded.weights))
    parts = [loaded.tokenizer.decode([token]) for token in ids]
    findings = {finding.feature: finding for finding in probes.find_cells(cells, probes.features(parts))[0]}
    assert findings["upper case"].cell == 7
    assert findings["upper case"].score == 1
    assert findings["upper case"].chance_score < 0.75
    assert all(finding.score < 1 for name, finding in findings.items() if name != "upper case")

    loaded.model.save(copied / run_directory.MODEL)
    out = inspected(capsys, copied, "--prompt", "a B", "--text", capitals)
    assert f"on {capitals}: {len(ids):,} tokens" in out
    assert re.search(r"upper case +balanced accuracy +7 +1\.000 +0\.500 +0\.\d{3} *\n", out)
    found = page_of(copied / "inspect")
    assert "Cell 7 of layer 2" in (copied / "inspect/text.html").read_text(encoding="utf-8")
    assert capitals.read_text(encoding="utf-8")[len(ids) // 2 :].startswith(found.passages[1][:100])
    values = [float(attributes["title"] or "") for tag, attributes in found.tags if tag == "span"][:3]
    assert [value > 0 for value in values] == [False, False, True]


def test_the_layer_and_the_cell_that_are_asked_for_are_shown(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--prompt", "The state", "--layer", "1", "--cell", "10", "--output", tmp_path)
    assert "cells of layer 1 that follow" in inspected(capsys, trained, *asked)
    page = (tmp_path / "text.html").read_text(encoding="utf-8")
    assert "<h1>Cell 10 of layer 1</h1>" in page
    loaded = run_directory.load(trained)
    found = activations.trace(
        loaded.weights, loaded.prompt_ids("The state"), 0, activations.initial_state(loaded.weights)
    ).cells[:, 10]
    assert re.findall(r'title="([^"]+)"', page)[:9] == [f"{value:+.2f}" for value in found]


def test_cells_are_looked_for_in_the_held_out_text_or_where_it_is_gone_in_the_models_own(
    copied: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = text.read_text(encoding="utf-8")[10_800:]
    assert "on the run's held-out text: 1,200 tokens" in inspected(capsys, copied, "--prompt", "a")
    assert page_of(copied / "inspect").passages[1] == held_out[600:].replace("\n", "↵\n")
    monkeypatch.setattr(inspect_run, "MAX_PROBED_TOKENS", 16 * 50)
    assert "on the run's held-out text: 800 tokens" in inspected(capsys, copied, "--prompt", "a")
    metadata = json.loads((copied / run_directory.METADATA).read_text(encoding="utf-8"))
    metadata["recipe"]["corpus"]["source"] = [str(tmp_path / "gone.txt")]
    (copied / run_directory.METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    out = inspected(capsys, copied, "--prompt", "a")
    assert "gone.txt: " in out.splitlines()[0]
    assert "on text that the model generated: 800 tokens" in out


@pytest.mark.parametrize("prompt", ["床前明月光", "疑 is 😀\n\0▁"])
def test_chinese_and_strange_prompts_work_with_and_without_documents(
    trained: Path, trained_lines: Path, prompt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (trained, trained_lines):
        inspected(capsys, folder, "--prompt", prompt, "--max-new-tokens", "6", "--output", tmp_path)
        assert page_of(tmp_path).passages[0].startswith(prompt.replace("\n", "↵\n").replace("▁", " "))
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_a_token_is_labelled_by_the_text_that_it_completes_or_as_it_is_spelled(trained: Path) -> None:
    tokenizer = run_directory.load(trained).tokenizer
    ids = [1, *tokenizer.encode("a 床\n\x1b[床"), 2, *tokenizer.encode("床")[:2]]
    han = ["<0xE5>", "<0xBA>", "床"]
    labels = ["<s>", "a", "␣", *han, "↵", "\\x1b", "[", *han, "</s>", "<0xE5>", "<0xBA>"]
    assert token_texts.labels(tokenizer, ids) == labels
    assert "".join(token_texts.parts(tokenizer, ids)) == "a 床\n\x1b[床\n\n" + "\N{REPLACEMENT CHARACTER}" * 2


def test_with_attention_where_it_looks_is_drawn_too(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--model.units 7 --model.embedding_size 4 --model.attention 5 --training.batch_size 3 --training.window 11"
    assert (
        command_line.main(["train", str(text), "--runs", str(tmp_path), "--training.epochs", "1", *words.split()]) == 0
    )
    inspected(capsys, tmp_path / text.stem, "--prompt", "The state of", "--max-new-tokens", "3")
    names = sorted(path.name for path in (tmp_path / text.stem / "inspect").iterdir())
    assert names == sorted([*NAMES, "attention.png"])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that write as one, with attention, of two kinds of short texts."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, words in {"fruit": ["fig", "plum", "Pear"], "tool": ["saw", "axe", "File"]}.items():
        (folder / name).write_text("\n".join(f"{a} {b} {c}" for a in words for b in words for c in words))
    values = {
        "corpus.source": [str(folder / "fruit"), str(folder / "tool")], "corpus.documents": "lines",
        "corpus.labels": ["sweet", "hard"], "corpus.validation_fraction": 0.5, "model.embedding_size": 4,
        "model.units": 7, "model.layers": 1, "model.attention": 5, "model.members": 2, "training.epochs": 2,
        "training.batch_size": 3,
    }  # fmt: skip
    return trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "kinds").folder


def test_texts_of_a_run_on_kinds_are_given_for_each(
    kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fruit, tool = str(kinds.parents[1] / "fruit"), str(kinds.parents[1] / "tool")
    words = ["inspect", str(kinds), "--prompt", "hard", "--output", str(tmp_path)]
    assert command_line.main([*words, "--text", fruit]) == 2
    said = f"{fruit}: give one text for each label in this order: sweet, hard (corpus.labels)"
    assert capsys.readouterr().err == f"keras-lstmgen: {said}\n"
    assert f"on {fruit}, {tool}: " in inspected(capsys, *words[1:], "--text", fruit, tool)


def test_of_an_ensemble_the_probabilities_are_those_of_all_and_the_gates_of_the_first(
    kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = run_directory.load(kinds)
    ids, first = loaded.prompt_ids("hard saw fig"), inference_step.each_member(loaded.weights)[0]
    whole, alone = (
        activations.trace(weights, ids, 0, activations.initial_state(weights)) for weights in (loaded.weights, first)
    )
    shares = tf.nn.softmax(loaded.model(np.array([ids]))[0]).numpy()
    np.testing.assert_allclose(tf.nn.softmax(whole.logits), shares, atol=1e-6)
    assert np.abs(tf.nn.softmax(alone.logits) - shares).max() > 1e-3
    for name in ("input", "forget", "candidate", "output", "cells", "attention_weights"):
        np.testing.assert_allclose(getattr(whole, name), getattr(alone, name), atol=1e-6, err_msg=name)
    _, state = activations.cell_reader(loaded.weights, 0)(ids[:4], activations.initial_state(loaded.weights))
    np.testing.assert_allclose(activations.trace(loaded.weights, ids[4:], 0, state).logits, whole.logits[4:], atol=1e-5)
    out = inspected(capsys, kinds, "--prompt", "hard saw fig", "--output", tmp_path)
    assert "cells of layer 1 of the first of 2 members that follow" in out
    best = re.findall(r" (\d+%)", out.partition("likeliest next tokens")[2])
    assert best[:5] == [f"{share:.0%}" for share in np.sort(shares[0])[::-1][:5]]


def test_examples_that_a_run_reads_by_themselves_are_probed_each_from_an_empty_state(kinds: Path) -> None:
    loaded = run_directory.load(kinds)
    first = inference_step.each_member(loaded.weights)[0]
    read, nothing = activations.cell_reader(first, 0), activations.initial_state(first)
    texts = list(splits.pieces(recipe.load(kinds / run_directory.RECIPE).corpus, "validation"))
    ids = [[START, *loaded.tokenizer.encode(text), END] for text in texts]
    found = inspect_run._probe(loaded, inspect_run.InspectOptions("hard"), 0)
    np.testing.assert_allclose(found.cells, np.concatenate([read(part, nothing)[0] for part in ids]), atol=1e-6)
    assert "".join(found.parts) == "".join(f"{text}\n\n" for text in texts)
    carried, _ = read(np.concatenate(ids), nothing)
    assert np.abs(carried - found.cells).max() > 1e-3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", ""], "--prompt: is empty; give a text for the model to read"),
        ([], "the following arguments are required: --prompt; see 'keras-lstmgen inspect --help'"),
        (["--prompt", "a", "--layer", "3"], "--layer: 3 is out of range; this model's layers are 1 to 2"),
        (["--prompt", "a", "--layer", "0"], "--layer: 0 is out of range; this model's layers are 1 to 2"),
        (["--prompt", "a", "--cell", "12"], "--cell: 12 is out of range; the cells of this layer are 0 to 11"),
        (["--prompt", "a", "--cell", "-1"], "--cell: -1 is out of range; the cells of this layer are 0 to 11"),
        (["--prompt", "a", "--max-new-tokens", "-1"], "--max-new-tokens: -1 is out of range; give 0 or more"),
        (["--prompt", "a", "--temperature", "-1"], "temperature: -1.0 is out of range; give a number 0 (greedy), "),
        (["--prompt", "a", "--text", "nowhere.txt"], "nowhere.txt: "),
        (["--prompt", "a\udcff"], "is not UTF-8 at byte 1"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_writes_nothing(
    copied: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    capsys.readouterr()
    assert command_line.main(["inspect", str(copied), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not (copied / "inspect").exists()


def test_no_run_a_run_without_weights_and_an_output_that_is_a_file_are_one_line_each(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    words = ["inspect", str(copied), "--prompt", "a"]
    assert command_line.main([*words, "--output", str(tmp_path / "file")]) == 2
    assert f"--output {tmp_path}/file: is a file; name a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert command_line.main(["inspect", "smal", "--prompt", "a", "--runs", str(tmp_path)]) == 2
    assert "smal: there is no such run" in capsys.readouterr().err
    (copied / run_directory.MODEL).unlink()
    assert command_line.main(words) == 2
    assert "is not a finished run (model.keras is missing)" in capsys.readouterr().err


GOLDEN = Path(__file__).parent / "golden" / "run"


def test_of_a_script_without_spaces_it_is_said_that_its_letters_make_no_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "poem.txt").write_text("床前明月光，疑是地上霜。\n" * 20, encoding="utf-8")
    out = inspected(capsys, GOLDEN, "--prompt", "a", "--text", tmp_path / "poem.txt", "--output", tmp_path / "out")
    assert not re.search(r"^ *(inside a word|a word begins next|letters of the word so far) +[a-z]", out, re.MULTILINE)
    assert out.count("a script without spaces between words") == 1
    assert out.count("inside a word") == 1
    assert probes.unspaced_share(["The frost", " is white, 霜"]) < 0.1


def test_characters_that_no_font_has_are_named_once_with_a_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [face for face in plots._faces() if face[0] == "DejaVu Sans"][:1]
    monkeypatch.setattr(plots, "_faces", lambda: own)
    monkeypatch.setattr(plots, "_font_of", cache(plots._font_of.__wrapped__))
    (tmp_path / "poem.txt").write_text("ab\n" * 20, encoding="utf-8")
    options = ("--text", tmp_path / "poem.txt", "--output", tmp_path / "out")
    out = inspected(capsys, GOLDEN, "--prompt", "床前明月光", *options)
    (said,) = [line for line in out.splitlines() if "no installed font" in line]
    assert re.search(r"contains 床 前 明 月 光[^:]*: the pictures show codes such as \\u5e8a instead", said)
    assert "Noto Sans CJK (the package fonts-noto-cjk)" in said


def test_of_a_long_prompt_the_end_alone_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, read, reader = run_directory.load(GOLDEN), list[int](), activations.cell_reader
    prompt = "The state of each cell is seen. " * 3
    ids = loaded.prompt_ids(prompt)
    whole = activations.trace(loaded.weights, ids, 0, activations.initial_state(loaded.weights))

    def counting(*given: Any) -> activations.Reader:
        def call(ids: Any, state: Any) -> Any:
            read.append(len(ids))
            return reader(*given)(ids, state)

        return call

    monkeypatch.setattr(activations, "cell_reader", counting)
    monkeypatch.setattr(inspect_run, "MAX_DRAWN_TOKENS", 7)
    monkeypatch.setattr(inspect_run, "MAX_EXCERPT_TOKENS", 20)
    shown = inspect_run._watch(loaded, inspect_run.InspectOptions(prompt), 0)
    assert shown.ids == ids[-20:]
    np.testing.assert_allclose(shown.cells, whole.cells[-20:], atol=1e-6)
    np.testing.assert_allclose(shown.trace.logits, whole.logits[-7:], atol=1e-5)
    assert max(read) <= 20
    assert sum(read) == len(ids) - 7
