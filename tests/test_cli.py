"""Each verb does what its help says, prints texts alone on standard output, and ends with the next command."""

import errno
import importlib.metadata
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.cli.checks.recipe_arguments import run_name
from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.cli.verbs import train
from keras_lstmgen.config import recipe
from keras_lstmgen.data import sources
from keras_lstmgen.exporters import verify
from keras_lstmgen.files import atomic, spooling
from keras_lstmgen.generation import beam_search, decoding_loop, text_generation
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.interpret import inspect_run
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer
from keras_lstmgen.training.trainer import TrainingResult

VERBS = ("prepare", "train", "generate", "chat", "evaluate", "inspect", "export", "clients", "info")
TINY = shlex.split(
    "--model.units 7 --model.embedding_size 4 --training.batch_size 3 --training.window 5 --training.epochs 1"
)


def typed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[str, str]:
    """Standard output and error of a command that succeeds."""
    capsys.readouterr()
    status = command_line.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def printed_next(text: str) -> list[str]:
    """The words of the next command, which stands in the last line."""
    last = text.rstrip("\n").splitlines()[-1]
    assert last.startswith("next: "), last
    return shlex.split(last.removeprefix("next: "))


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command_line.main([*words, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def keyboard(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input hold this text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[recipe.Recipe, Path, str]]:
    """What ``train`` is asked for: (recipe, folder of runs, name). Nothing is trained."""
    calls: list[tuple[recipe.Recipe, Path, str]] = []

    def note(settings: recipe.Recipe, runs: Path, name: str, **_: Any) -> TrainingResult:
        calls.append((settings, runs, name))
        return TrainingResult(runs / name, interrupted=False, summary=None)

    monkeypatch.setattr(trainer, "train", note)
    monkeypatch.chdir(tmp_path)
    return calls


# Help and names


@pytest.mark.parametrize("verb", VERBS)
def test_help_comes_by_both_names_without_waiting_for_tensorflow(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", f"keras_lstmgen.{verb}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = re.findall(r"\| +([\w.]+)$", done.stderr, re.M)
    assert "keras_lstmgen.config.recipe" in imported
    assert not {"tensorflow", "keras", "numpy", "rich", "matplotlib"} & set(imported)
    assert " ".join(done.stdout.split()) == help_of(capsys, verb)
    assert done.stdout.startswith(f"usage: keras-lstmgen {verb} ")


def test_the_console_script_is_the_same_function_and_names_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="keras-lstmgen")
    assert script.load() is command_line.main
    text = help_of(capsys)
    assert all(f" {verb} " in text for verb in VERBS)


def test_the_help_of_train_has_every_value_of_a_recipe_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "train")
    for name, (_, default, about) in recipe.recipe_fields().items():
        words = " ".join(default) if isinstance(default, tuple) else "auto" if default == -1 else str(default)
        said = words.lower() if isinstance(default, bool) else words
        choices = f"; one of {', '.join(about['choices'])}" if about["choices"] else ""
        told = re.escape(f"{about['about']}{choices} (default: {said or 'none'})")
        assert re.search(rf"--{re.escape(name)} \S.*? {told}", text), name


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_the_help_says_the_default_of_each_number(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, verb)
    numbers = re.findall(r"--[\w.-]+ [NX] ", text.split("options:", 1)[1])
    assert len(numbers) == len(re.findall(r"\(default: [\d.]+\)", text)) >= 2
    assert "(default: saved_models)" in text


# train


def test_every_value_of_a_recipe_is_an_option(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_base", lambda _runs, _init_from: recipe.Recipe())
    words = {
        "corpus.source": "a.txt b.txt", "corpus.sha256": "x y", "corpus.documents": "jsonl", "corpus.field": "text",
        "corpus.language": "en", "corpus.license": "mit",
        "corpus.labels": "good bad", "corpus.unique": "true", "corpus.validation": "c.txt d.txt",
        "corpus.validation_fraction": "0.25", "corpus.split_seed": "3", "corpus.normalize": "nfkc",
        "tokenizer.type": "bpe", "tokenizer.vocab_size": "900", "model.embedding_size": "11", "model.units": "11",
        "model.layers": "3", "model.dropout": "0.4", "model.input_dropout": "0.3", "model.tied": "true",
        "model.embedding_dropout": "0.2", "model.weight_drop": "0.1", "model.activation_regularization": "2",
        "model.attention": "3", "model.copy": "true",
        "training.init_from": "runs/old",
        "training.batch_size": "5", "training.average": "50", "training.precision": "float32",
        "training.random_offsets": "false",
        "training.sampled_softmax": "8", "training.source_loss": "0.5", "model.members": "2", "training.state": "fresh",
        "training.window": "6", "training.epochs": "7", "training.minutes": "8", "training.optimizer": "adam",
        "training.learning_rate": "1e-3", "training.warmup": "0.2", "training.weight_decay": "0.3",
        "training.clip_norm": "0.5", "training.patience": "9", "training.seed": "10", "export.formats": "onnx tflite",
        "export.texts": "12", "export.tokens": "13", "evaluate.measures": "bleu kind", "evaluate.beams": "4",
        "evaluate.length_penalty": "0.6",
    }  # fmt: skip
    assert words.keys() == recipe.recipe_fields().keys()
    # Three options exclude several members, and one of them needs pairs. The others have no effect beside the rest.
    documents = ["corpus.source", "corpus.documents", "corpus.field"]
    pairs = ["model.attention", "corpus.labels", *documents]
    groups = {
        "corpus.validation_fraction": ["corpus.validation_fraction"],
        "corpus.split_seed": ["corpus.split_seed", *documents],
        "training.random_offsets": ["training.random_offsets"],
        "training.weight_decay": ["training.weight_decay"],
        "training.sampled_softmax": ["training.sampled_softmax"],
        "model.activation_regularization": ["model.activation_regularization"],
        "model.copy": ["model.copy", *pairs],
    }
    for names in (words.keys() - set(groups), *groups.values()):
        typed = [word for name in names for word in (f"--{name}", *words[name].split())]
        assert command_line.main(["train", *typed]) == 0
    settings, *others = (settings for settings, _, _ in asked)
    for name, other in zip(groups, others, strict=True):
        section, key = name.split(".")
        part = replace(getattr(settings, section), **{key: getattr(getattr(other, section), key)})
        settings = replace(settings, **{section: part})
    kinds: dict[Any, Any] = {bool: lambda word: word == "true", int: int, float: float, str: str}
    for name, (kind, default, _) in recipe.recipe_fields().items():
        section, key = name.split(".")
        value = getattr(getattr(settings, section), key)
        assert value == (kinds[kind](words[name]) if kind in kinds else tuple(words[name].split())), name
        assert value != default, name


def test_what_is_trained_and_what_it_is_called(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[corpus]\nsource = "x.txt"\n[model]\nunits = 33\nlayers = 2\n')
    lines = ("", "'my book.txt' b.txt", "mine.toml --model.units 44", "texts/*.txt --name n", "-")
    for line in lines:
        assert command_line.main(["train", "--runs", "r", *shlex.split(line)]) == 0
    assert {runs for _, runs, _ in asked} == {Path("r")}
    assert [name for *_, name in asked] == ["quickstart", "my-book", "mine", "n", "text"]
    recipes = [settings for settings, *_ in asked]
    assert recipes[0] == recipe.Recipe()
    assert [settings.corpus.source for settings in recipes[1:]] == [
        ("my book.txt", "b.txt"), ("x.txt",), ("texts/*.txt",), ("-",),
    ]  # fmt: skip
    assert (recipes[2].model.units, recipes[2].model.layers) == (44, 2)


def test_without_an_argument_it_learns_from_pydoc_in_any_folder_and_the_next_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out, _ = typed(capsys, "train", *TINY, "--training.batch_size", "50", "--training.minutes", "0.01")
    words = printed_next(out)
    assert words == ["keras-lstmgen", "generate", "saved_models/quickstart", "--temperature", "0.8"]
    assert run_directory.load_metadata(tmp_path / words[2]).recipe["corpus"]["source"] == ["pydoc"]
    text, err = typed(capsys, *words[1:], "--max-new-tokens", "10")
    assert len(text) >= 2
    assert printed_next(err) == ["keras-lstmgen", "evaluate", "saved_models/quickstart"]


def piped(text: str) -> str:
    """Return the name that a shell gives ``<(…)``: a pipe that holds this text, and can be read once."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return f"/dev/fd/{reading}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard input", "pipe"])
def test_a_corpus_that_can_be_read_once_is_trained_on_resumed_and_evaluated(
    kind: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spooling.spool.cache_clear()
    written = text.read_text(encoding="utf-8")[:2000]
    keyboard(monkeypatch, written)
    source = "-" if kind == "standard input" else piped(written)
    typed(capsys, "train", source, "--runs", tmp_path / "runs", *TINY)
    folder = tmp_path / "runs/text"
    assert str(tmp_path / "cache") in (folder / run_directory.RECIPE).read_text()
    spooling.spool.cache_clear()
    keyboard(monkeypatch, "")
    typed(capsys, "train", "--resume", folder, "--training.epochs", "2")
    assert len(json.loads((folder / "history.json").read_text())) == 2
    for texts in ([], [piped(written[:200])]):
        out, _ = typed(capsys, "evaluate", folder, *texts, "--json", "--samples", "0")
        assert json.loads(out)["counts"]["characters"] == 200


@pytest.mark.slow
def test_ctrl_c_at_the_keyboard_ends_a_training_cleanly_and_it_can_be_gone_on_with(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prose.txt").write_text(text.read_text(encoding="utf-8")[:2000], encoding="utf-8")
    words = [sys.executable, "-u", "-m", "keras_lstmgen.train", f"{tmp_path}/prose.txt", "--runs", str(tmp_path), *TINY]
    started = subprocess.Popen(
        [*words, "--training.epochs", "100000", "--training.patience", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout
    assert any(line.startswith("epoch 1 ") for line in started.stdout)  # it trains
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=300)
    folder = tmp_path / "prose"
    assert (started.returncode, err) == (0, "")
    assert f"Stopped by Ctrl-C. The run is saved. To continue: keras-lstmgen train --resume {folder}\n" in out
    assert printed_next(out)[:3] == ["keras-lstmgen", "generate", str(folder)]
    history = json.loads((folder / "history.json").read_text())
    epochs = len(history) + 1
    typed(capsys, "generate", folder, "--max-new-tokens", "5")
    typed(capsys, "train", "--resume", folder, "--training.epochs", str(epochs))
    assert json.loads((folder / "history.json").read_text())[-1]["windows"] == epochs * history[0]["windows"]


# generate


def test_the_text_alone_goes_to_standard_output_and_the_notes_beside_it(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = typed(
        capsys, "generate", trained, "--prompt", "The ", "--max-new-tokens", "40", "--seed", "7", "--n", "2",
        "--temperature", "0.9", "--top-k", "30", "--top-p", "0.95", "--min-p", "0.01", "--repetition-penalty", "1.1",
    )  # fmt: skip
    options = Options(temperature=0.9, top_k=30, top_p=0.95, min_p=0.01, repetition_penalty=1.1)
    first, second = Generator(run_directory.load(trained)).generate("The ", GenerationConfig(40, options), seeds=[7, 8])
    assert out == f"{first.text}\n\n{second.text}\n"
    assert "80 tokens in" in err
    assert "ended by: length, length" in err
    assert printed_next(err) == ["keras-lstmgen", "evaluate", str(trained)]


def test_on_a_terminal_the_prompt_stands_before_the_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(trained), "--prompt", "The ", "--max-new-tokens", "5"]
    piped, _ = typed(capsys, "generate", *words)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "keras_lstmgen.generate", *words]
    subprocess.run(command, stdout=slave, stderr=subprocess.DEVNULL, check=True)
    os.close(slave)
    shown = os.read(master, 10_000).decode().replace("\r\n", "\n")
    os.close(master)
    assert shown == f"The {piped}"


def test_a_prompt_comes_from_the_command_line_a_file_or_standard_input(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompt.txt").write_text("Ein\nÜbel", encoding="utf-8")
    keyboard(monkeypatch, "Ein\nÜbel")
    short = ("generate", trained, "--max-new-tokens", "20")
    given = [("--prompt", "Ein\nÜbel"), ("--prompt-file", str(tmp_path / "prompt.txt")), ("--prompt-file", "-")]
    texts = {typed(capsys, *short, *words)[0] for words in given}
    assert len(texts) == 1
    assert texts != {typed(capsys, *short)[0]}


def test_a_stop_string_ends_the_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = typed(capsys, "generate", trained, "--max-new-tokens", "60")[0]
    out, err = typed(capsys, "generate", trained, "--max-new-tokens", "60", "--stop", free[20:22], "--stop", "\0")
    assert out == free[: free.index(free[20:22])] + "\n"
    assert "ended by: stop" in err


def test_interactive_answers_each_line_until_the_end_of_input(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard(monkeypatch, "The \nA\n")
    out, err = typed(capsys, "generate", trained, "--interactive", "--max-new-tokens", "15", "--seed", "3")
    model = run_directory.load(trained)
    texts = [Generator(model).generate(p, GenerationConfig(15), seeds=[s])[0].text for p, s in (("The ", 3), ("A", 4))]
    assert out == "".join(f"{text}\n" for text in texts)
    assert printed_next(err)[1] == "evaluate"


def test_the_output_goes_to_a_file_instead(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("generate", trained, "--max-new-tokens", "15")
    shown, (out, _) = typed(capsys, *short)[0], typed(capsys, *short, "--output", tmp_path / "a.txt")
    assert (out, (tmp_path / "a.txt").read_text()) == ("", shown.removesuffix("\n"))
    keyboard(monkeypatch, "\n\n")
    out, _ = typed(capsys, *short, "--interactive", "--output", tmp_path / "a.txt")
    assert out == ""
    assert (tmp_path / "a.txt").read_text().startswith(shown.removesuffix("\n") + "\n\n")


def test_every_option_of_the_host_reaches_the_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--no-repeat-ngram", "3", "--presence-penalty", "0.5", "--frequency-penalty", "-0.25",
        "--logit-bias", "e=-inf", "#260=1.5", "--logit-bias", "<0x0A>=-2", "==-3", "--regex", "[^e]*",
    ]  # fmt: skip
    model, host = (
        run_directory.load(trained),
        HostOptions(3, 0.5, -0.25, ("e=-inf", "#260=1.5", "<0x0A>=-2", "==-3"), "[^e]*"),
    )
    out, err = typed(capsys, "generate", trained, "--prompt", "The ", "--max-new-tokens", "40", "--n", "2", *words)
    first, second = Generator(model).generate("The ", GenerationConfig(40, host=host), seeds=[0, 1])
    assert out == f"{first.text}\n\n{second.text}\n"
    assert "e" not in out
    assert "are excluded by" not in err


def test_what_a_text_lacks_is_told_beside_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = typed(capsys, "generate", trained, "--regex", "[a-z]{9}", "--max-new-tokens", "4", "--n", "2")
    assert re.fullmatch(r"[a-z]{4}\n\n[a-z]{4}\n", out)
    assert "text 1: the match of --regex is incomplete\ntext 2: the match of --regex is incomplete\n" in err


def test_a_search_writes_the_best_texts_and_their_scores_beside_them(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "The ", "--max-new-tokens", "20", "--no-repeat-ngram", "4")
    out, err = typed(capsys, "generate", trained, *words, "--beams", "3", "--length-penalty", "0.5", "--n", "2")
    model = run_directory.load(trained)
    limits = text_generation.compile_constraints(model, HostOptions(no_repeat_ngram=4))
    asked = beam_search.BeamSearchConfig(3, 0.5, 20)
    best, second, _ = text_generation.search(
        model, decoding_loop.compile_step(model.weights), "The ", asked, constraints=limits
    )
    assert out == f"{best.text}\n\n{second.text}\n"
    assert f"ended by: length, length; scores: {best.score:.4f}, {second.score:.4f}\n" in err


def test_log_probabilities_are_a_line_of_json_a_token(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ("generate", trained, "--prompt", "The ", "--max-new-tokens", "7", "--n", "2")
    short = (*two, "--seed", "2")
    out, _ = typed(capsys, *short, "--logprobs", "3")
    model = run_directory.load(trained)
    samples = Generator(model).generate("The ", GenerationConfig(7), seeds=[2, 3])
    told = [json.loads(line) for line in out.splitlines()]
    assert [(line["text"], line["position"]) for line in told] == [(text, t) for text in (0, 1) for t in range(7)]
    assert [line["id"] for line in told] == samples[0].tokens + samples[1].tokens
    assert all(len(line["top_logprobs"]) == 3 for line in told)
    assert sum(line["logprob"] for line in told[:7]) == pytest.approx(samples[0].logprob, abs=1e-3)
    typed(capsys, *short, "--logprobs", "3", "--output", tmp_path / "told.jsonl")
    assert (tmp_path / "told.jsonl").read_text(encoding="utf-8") == out.removesuffix("\n")
    out, _ = typed(capsys, *two, "--logprobs", "0", "--beams", "2")
    assert [json.loads(line)["top_logprobs"] for line in out.splitlines()] == [[]] * 14


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-repeat-ngram", "-1"], "--no-repeat-ngram: -1 is out of range; give 0 (off) or more"),
        (["--presence-penalty", "nan"], "--presence-penalty: nan is out of range; give a number from "),
        (["--frequency-penalty", "1e7"], "--frequency-penalty: 10000000.0 is out of range; give a number from "),
        (["--logit-bias", "e"], "--logit-bias 'e': give TOKEN=X or #ID=X, "),
        (["--logit-bias", "字=1"], "--logit-bias '字=1': the vocabulary has no such token; "),
        (["--regex", "("], "--regex '(': unclosed group; docs/generation.md describes the syntax"),
        (["--logprobs", "-1"], "--logprobs: -1 is out of range; give 0 or more"),
        (["--beams", "-1"], "--beams: -1 is out of range; give 1 or more"),
        (["--beams", "2", "--length-penalty", "-1"], "--length-penalty: -1.0 is out of range; give a number from 0 "),
        (["--length-penalty", "1"], "--length-penalty: applies to a beam search; give --beams too"),
        (
            ["--beams", "2", "--top-p", "0.5"],
            "--top-p: has no effect in a beam search, which does not sample; leave out either ",
        ),
        (["--beams", "2", "--n", "3"], "--n: 3 is out of range; a search with --beams 2 finds no more than"),
    ],
)
def test_what_cannot_be_asked_of_a_text_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert command_line.main(["generate", str(trained), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"keras-lstmgen: {said}")
    assert err.count("\n") == 1


def test_a_reader_that_has_enough_ends_it_without_a_word(trained: Path) -> None:
    words = [sys.executable, "-m", "keras_lstmgen.generate", str(trained), "--max-new-tokens", "5000"]
    started = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdout
    assert len(started.stdout.read(10)) == 10
    started.stdout.close()
    assert started.stderr
    assert started.stderr.read() == b""
    started.stderr.close()
    assert started.wait(timeout=300) == 0


# evaluate, export, info


def test_evaluate_prints_tables_or_json_and_keeps_the_json(
    copied: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = typed(capsys, "evaluate", copied, "--samples", "2", "--sample-tokens", "50")
    report = json.loads((copied / "evaluation.json").read_text())
    assert f"{report['loss']['nats_per_token']:.4f}" in out
    assert re.search(rf"longest passage copied, characters +{report['samples']['longest_copy_characters']} *\n", out)
    assert printed_next(out) == ["keras-lstmgen", "export", str(copied)]

    (tmp_path / "other.txt").write_text(text.read_text(encoding="utf-8")[:700], encoding="utf-8")
    out, err = typed(capsys, "evaluate", copied, tmp_path / "other.txt", "--json", "--samples", "0")
    report = json.loads(out)
    assert report == json.loads((copied / "evaluation.json").read_text())
    assert (report["text"], report["counts"]["characters"]) == (str(tmp_path / "other.txt"), 700)
    assert "samples" not in report
    assert printed_next(err) == ["keras-lstmgen", "export", str(copied)]


def test_export_writes_the_formats_asked_for(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("serving", "tflite", "onnx"):
        shutil.rmtree(copied / name)
    (copied / "export.json").unlink()
    out, _ = typed(capsys, "export", copied, "--format", "tflite", "--texts", "6", "--tokens", "5")
    record = json.loads((copied / "export.json").read_text())["artifacts"]
    assert (list(record), record["tflite"]["identical"], record["tflite"]["tried"]) == (["tflite"], 6, 6)
    assert (copied / record["tflite"]["path"]).is_file()
    assert re.search(r"TFLite .* 6 of 6 ", out)
    assert printed_next(out) == ["keras-lstmgen", "info", str(copied)]


def test_info_lists_the_runs_or_describes_one(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nats = json.loads((trained / "metrics.json").read_text())["validation"]["nats_per_token"]
    out, _ = typed(capsys, "info", "--runs", trained.parent)
    assert re.search(rf"small +{nats:.3f} .*saved_model, tflite, onnx", out)
    assert printed_next(out) == ["keras-lstmgen", "info", str(trained)]
    out, _ = typed(capsys, "info", "small", "--runs", trained.parent)
    assert re.search(r"model\.units +12 *\n", out)
    assert re.search(r"tflite +tflite/model\.tflite .* 24 of 24", out)
    assert f"{nats:,.4f}" in out
    assert printed_next(out) == ["keras-lstmgen", "generate", str(trained)]


@pytest.mark.parametrize(
    "line",
    ["generate LETTERS", "chat LETTERS", "evaluate LETTERS", "inspect LETTERS --prompt a", "export LETTERS",
     "info LETTERS", "train --resume LETTERS"],
    ids=lambda line: line.split()[0],
)  # fmt: skip
def test_a_folder_of_the_same_name_does_not_hide_a_run_and_each_verb_says_which_is_used(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both folders are empty, so that each verb says at once which one it cannot read."""
    monkeypatch.chdir(tmp_path)
    for folder in ("letters", "saved_models/letters"):
        Path(folder).mkdir(parents=True)
    assert command_line.main(shlex.split(line.replace("LETTERS", "letters"))) == 2
    note, refusal = capsys.readouterr().err.splitlines()
    used = "letters: using the run saved_models/letters; to select the folder in the working directory, type "
    assert note.startswith(used)
    assert refusal.startswith("keras-lstmgen: saved_models/letters")
    assert command_line.main(shlex.split(line.replace("LETTERS", note.removeprefix(used)))) == 2
    assert re.match(r"keras-lstmgen: letters[/:][^\n]*\n\Z", capsys.readouterr().err)


@pytest.mark.parametrize(("name", "what"), [("pydoc", "Python's language reference"), ("-", "standard input")])
def test_a_file_called_like_a_source_with_a_meaning_of_its_own_is_told_apart_from_it(
    asked: list[Any], name: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["train", name]) == 0
    assert "using" not in capsys.readouterr().err
    Path(name).write_text("a text")
    assert command_line.main(["train", name]) == 0
    hint = f"{name}: using {what}; to select the file in the working directory, type ./{name}\n"
    assert capsys.readouterr().err == hint
    assert command_line.main(["train", f"./{name}"]) == 0
    assert capsys.readouterr().err == ""
    assert [settings.corpus.source for settings, *_ in asked] == [(name,), (name,), (f"./{name}",)]
    (file,) = sources.resolve(asked[-1][0].corpus)
    assert file.path is not None


def test_a_folder_called_like_a_recipe_is_a_folder_of_texts(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("texts.toml").mkdir()
    Path("texts.toml", "a.txt").write_text("A text.\n")
    assert command_line.main(["train", "texts.toml"]) == 0
    assert asked[0][0].corpus.source == ("texts.toml",)
    Path("notes.toml").write_text("A text, no recipe.")
    assert command_line.main(["train", "notes.toml"]) == 2
    assert "or give a text with this name by --corpus.source" in capsys.readouterr().err
    assert command_line.main(["train", "--corpus.source", "notes.toml"]) == 0
    assert asked[1][0].corpus.source == ("notes.toml",)


def test_the_next_command_names_a_run_in_the_working_directory_by_its_path(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copied.parent)
    words = printed_next(typed(capsys, "info", "moved", "--runs", ".")[0])
    assert words == ["keras-lstmgen", "generate", "./moved"]
    typed(capsys, "info", words[2])


def test_a_name_with_brackets_or_spaces_is_printed_so_that_it_can_be_typed(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "a [bold]run[/bold]"
    shutil.copytree(copied, strange)
    assert printed_next(typed(capsys, "generate", strange, "--max-new-tokens", "1")[1])[2] == str(strange)
    assert printed_next(typed(capsys, "info", strange)[0])[2] == str(strange)


# What cannot be kept


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_evaluate_measured_is_printed_where_it_cannot_be_kept(
    copied: Path, refusing: dict[str, int], capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    refusing["evaluation.json"] = errno.EACCES
    assert command_line.main(["evaluate", str(copied), "--samples", "0", *form]) == 2
    out, err = capsys.readouterr()
    assert "nats" in out
    assert err.endswith("evaluation.json: could not be written (Permission denied); the previous version is kept\n")


def test_tables_of_inspect_are_printed_where_its_pictures_cannot_be_kept(
    copied: Path, refusing: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    refusing["forget.png"] = errno.ENOSPC
    assert command_line.main(["inspect", str(copied), "--prompt", "The class"]) == 2
    out, err = capsys.readouterr()
    assert "likeliest next tokens" in out
    assert "that follow a feature of the text" in out
    assert "forget.png: could not be written (No space left on device)" in err


def test_a_text_that_cannot_be_kept_is_printed(
    copied: Path, tmp_path: Path, refusing: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The system refuses what bears this name: no real device is named, which a fault could replace."""
    refusing["kept.txt"] = errno.ENOSPC
    assert (
        command_line.main(["generate", str(copied), "--max-new-tokens", "9", "--output", str(tmp_path / "kept.txt")])
        == 2
    )
    out, err = capsys.readouterr()
    assert (
        out
        == Generator(run_directory.load(copied)).generate("", GenerationConfig(9, Options()), seeds=[0])[0].text + "\n"
    )
    assert "kept.txt: could not be written (No space left on device)" in err


def test_what_takes_long_begins_only_where_its_results_can_be_written(
    copied: Path, refusing: dict[str, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "compute_reference", None)
    monkeypatch.setattr(inspect_run, "inspect", None)
    refusing[atomic.WRITING] = errno.EROFS
    for words in (["export", str(copied)], ["inspect", str(copied), "--prompt", "a"]):
        assert command_line.main(words) == 2
        assert "could not be written (Read-only file system)" in capsys.readouterr().err


# What is typed in another way


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("in/my book (final) [v2] é.txt", "my-book-final-v2-é"),
        ("in/a.b.txt.gz", "a-b"),
        ("in/" + "x" * 200, "x" * 60),
        ("in/*.txt", "in"),
        ("in", "in"),
        ("http://host/a.txt?b=c", "a"),
    ],
)
def test_a_run_is_named_after_its_text(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    if name.startswith("in/") and "*" not in name:
        (tmp_path / name).touch()
    assert run_name(name) == said


@pytest.mark.parametrize("words", [["--prompt", "-Hello"], ["--stop", "--xy"], ["--presence-penalty", "-1e-3"]])
def test_how_a_value_with_a_minus_sign_is_given_is_said_and_works(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["generate", *words]) == 2
    hint = re.search(r"a value that begins with a minus sign is typed as (.*); see", capsys.readouterr().err)
    assert hint
    arguments = vars(build_parser().parse_args(["generate", *shlex.split(hint[1])]))
    assert words[1] in (str(value) for value in [arguments["prompt"], *arguments["stop"], "-1e-3"])
