"""``generate --prompts``, ``--json`` and ``--min-new-tokens``."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.training import trainer

LINES: list[dict[str, Any]] = [
    {"prompt": "the ferry", "seed": 3},
    {"prompt": ""},
    {"prompt": "the old ferry is", "top_k": 4, "temperature": 0.7, "n": 3, "seed": 5},
    {"prompt": "a", "max_new_tokens": 5, "logprobs": 2},
    {"prompt": "the", "no_repeat_ngram": 2, "seed": 1},
    {"prompt": "the boat", "no_repeat_ngram": 2, "seed": 2, "top_p": 0.8},
    {"prompt": "the", "stop": ["e"], "seed": 9},
    {"prompt": "late", "beams": 3, "n": 2, "max_new_tokens": 6},
    {"prompt": "月", "min_new_tokens": 30, "seed": 4},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on documents, whose texts end with an end token."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "lines.txt").write_text("the ferry is late\nthe old boat is early\na boat\n" * 60, encoding="utf-8")
    values = {
        "corpus.source": str(folder / "lines.txt"), "corpus.validation": str(folder / "lines.txt"),
        "corpus.documents": "lines", "model.embedding_size": 5, "model.units": 12, "model.layers": 1,
        "training.batch_size": 4, "training.window": 24, "training.epochs": 4, "training.learning_rate": 0.02,
    }  # fmt: skip
    return trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "lines").folder


def generated(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """The lines of JSON that ``generate`` prints."""
    capsys.readouterr()
    assert command_line.main(["generate", str(run), "--max-new-tokens", "40", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def as_words(values: dict[str, Any]) -> list[str]:
    """The options of a line of a prompt file as options of the command line."""
    pairs = [(name, item) for name, value in values.items() for item in (value if isinstance(value, list) else [value])]
    return [f"--{name.replace('_', '-')}={value}" for name, value in pairs]


def test_each_line_of_a_file_gives_the_text_that_its_prompt_gives_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in LINES), encoding="utf-8")
    found = generated(run, capsys, "--prompts", str(path))
    expected = [text for line in LINES for text in generated(run, capsys, "--json", *as_words(line))]
    assert found == expected
    assert [text["prompt"] for text in found] == [
        line["prompt"] for line in LINES for _ in range(int(line.get("n", 1)))
    ]
    assert [text["seed"] for text in found if text["prompt"] == "the old ferry is"] == [5, 6, 7]
    assert ["score" in text for text in found] == [text["prompt"] == "late" for text in found]
    (with_logprobs,) = (text for text in found if "logprobs" in text)
    assert [entry["id"] for entry in with_logprobs["logprobs"]] == with_logprobs["tokens"]
    assert {text["finish_reason"] for text in found} == {"stop", "length"}
    output = tmp_path / "texts.jsonl"
    assert generated(run, capsys, "--prompts", str(path), "--output", str(output)) == []
    assert [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] == expected


def test_a_file_of_plain_lines_uses_the_options_of_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_bytes("the ferry\r\n\r\n\u00fcber the {boat}".encode())
    options = ["--seed", "7", "--top-k", "5"]
    found = generated(run, capsys, "--prompts", str(tmp_path / "prompts.txt"), *options)
    prompts = ["the ferry", "", "über the {boat}"]
    assert found == [
        text for prompt in prompts for text in generated(run, capsys, "--json", f"--prompt={prompt}", *options)
    ]


BAD = [
    ('{"prompt": "a"}\n{"prompt": "b"', ":2: is not JSON (Expecting ',' delimiter); give an object such as {"),
    ('{"prompt": "a"}\n\n', ":2: is not JSON (Expecting value); give an object such as {"),
    ('{"prompt": 3}', ":1: has no prompt; give an object such as {"),
    ('{"seed": 3}', ":1: has no prompt; give an object such as {"),
    (
        '{"prompt": "a"}\n{"prompt": "a", "temperatur": 3}',
        ":2: there is no option 'temperatur'; the nearest is 'temperature'",
    ),
    ('{"prompt": "a", "top_k": "5"}', ":1: top_k: '5' is not a whole number"),
    ('{"prompt": "a", "seed": true}', ":1: seed: True is not a whole number"),
    ('{"prompt": "\\ud800"}', ":1: the prompt is not valid Unicode (half a surrogate pair)"),
    ("", ": has no prompts; give one prompt per line"),
    (b"a\n\xff", ":2: not UTF-8 at byte 2; convert the file first"),
]


@pytest.mark.parametrize(("content", "said"), BAD)
def test_a_bad_line_is_named_with_its_file_and_its_number(
    content: str | bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command_line.main(["generate", "none", "--prompts", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"keras-lstmgen: {path}{said}")
    assert error.count("\n") == 1


def test_a_bad_line_ends_the_command_before_tensorflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"prompt": "a"}\n{"prompt": "b", "top_k": 0.5}\n')
    command = [sys.executable, "-X", "importtime", "-m", "keras_lstmgen.generate", "--prompts", "p"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "p:2: top_k: 0.5 is not a whole number" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.endswith((" tensorflow", " keras", " numpy"))]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"temperature": -1.0}, "temperature: -1.0 is out of range; give a number"),
        (
            {"min_new_tokens": 50},
            "--min-new-tokens: 50 is out of range; give 40 (the maximum number of tokens per text)",
        ),
        ({"logit_bias": "zz=1"}, "--logit-bias 'zz=1': the vocabulary has no such token"),
    ],
)
def test_a_line_whose_options_do_not_fit_together_or_the_vocabulary_is_named_too(
    line: dict[str, Any], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b", **line}))
    words = shlex.split(f"generate {run} --max-new-tokens 40 --prompts {tmp_path}/p")
    assert command_line.main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"keras-lstmgen: {tmp_path}/p:2: {said}")
    assert printed.out == ""


def test_the_end_token_is_forbidden_until_the_minimum_number_of_tokens(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (free,) = generated(run, capsys, "--json", "--seed", "2")
    assert free["finish_reason"] == "stop"
    count = len(free["tokens"])
    (longer,) = generated(run, capsys, "--json", "--seed", "2", f"--min-new-tokens={count + 3}")
    (never,) = generated(run, capsys, "--json", "--seed", "2", "--logit-bias", "</s>=-inf")
    end = free["tokens"][-1]
    assert end not in longer["tokens"][: count + 3]
    assert longer["tokens"][: count + 3] == never["tokens"][: count + 3]
    (beam,) = generated(run, capsys, "--json", "--beams", "2", "--min-new-tokens", "25")
    assert end not in beam["tokens"][:25]
