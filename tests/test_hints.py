"""What a message tells the user to type works when it is typed: every hint of the source is run as it is printed."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.cli.display import training_hint
from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, token_cache
from keras_lstmgen.exporters import export_run
from keras_lstmgen.files import folders
from keras_lstmgen.models import run_directory
from keras_lstmgen.preparation import partition
from keras_lstmgen.training import loop, trainer
from keras_lstmgen.training.input_pipeline import TrainingData
from keras_lstmgen.utils.errors import UserError, shell_quoted

ROOT = Path(__file__).parents[1]
(VERBS,) = (action for action in build_parser()._actions if action.dest == "verb")
OPTIONS = {option for verb in dict(VERBS.choices or {}).values() for option in verb._option_string_actions}
ALONE = re.compile(r"--[\w.-]+([= ]\{\}|=.*)?")  # an option that is no message
TINY = shlex.split("--training.batch_size 3 --training.window 5 --training.epochs 1")

# Hints that another test follows, by a part of the message.
ELSEWHERE = {
    "Stopped by Ctrl-C": ("cli", "test_ctrl_c_at_the_keyboard_ends_a_training_cleanly_and_it_can_be_gone_on_with"),
    "stopped by SIGTERM": (
        "faults",
        "test_sigterm_ends_a_training_within_ten_seconds_with_status_143_and_it_can_be_gone_on_with",
    ),
    "was ended by": ("workers", "test_where_one_is_killed_the_others_say_so_and_all_can_go_on"),
    "another worker has ended": ("workers", "test_where_one_is_killed_the_others_say_so_and_all_can_go_on"),
}
# Messages that name an option without advising it, or whose situation needs hardware, with the reason.
NO_ADVICE = {
    "the match of --regex is incomplete": "says what happened",
    "GPUs: --workers": "needs several GPUs",
    "keras-lstmgen model card": "marks a model card",
    "`{} --max-new-tokens 160`": "tests/test_model_card.py runs the command",
    "keras-lstmgen generate {} --temperature {} --seed {}": "tests/test_model_card.py runs the command",
    'keras-lstmgen generate {} --prompt "…"': "an example in a model card",
    "pandoc --to plain": "a command of another program",
    "needs the backend 'tensorflow'": "advises to unset a variable",
    "--sample-tokens has no effect here": "tests/test_effects.py gives what it needs",
    "a --temperature above 0": "tests/test_effects.py gives what it needs",
}


# The messages of the source


def _template(node: ast.AST) -> str:
    """The text of a string, ``{}`` in place of what is filled in; empty for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _messages(path: Path) -> Iterator[str]:
    """The strings of a file that are neither docstrings nor parts of others."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {node.value for node in nodes if isinstance(node, ast.Expr)}
    yield from (text for node in nodes if node not in parts and (text := _template(node)))


def hints() -> list[str]:
    """Every message that advises a command or an option. An option at its start is what the message is about."""
    paths = [path for path in (ROOT / "keras_lstmgen").rglob("*.py") if path.name != "options.py"]  # which holds help
    found = {text for path in paths for text in _messages(path) if not ALONE.fullmatch(text)}
    return sorted(text for text in found if _advises(re.sub(r"^--[^:]*:", "", text)))


def _advises(text: str) -> bool:
    """Whether a text has a command of this package, or an option of one."""
    return "keras-lstmgen " in text or not OPTIONS.isdisjoint(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text))


# Situations: what leads to the message, and how the hint is followed


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a few files; a training ends where it would begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_LSTMGEN_DATA", raising=False)
    monkeypatch.setattr(trainer, "_fit", lambda _data, folder, *_: trainer.TrainingResult(folder))
    Path("b.txt").write_text("The ferry.\nThe old ferry is late again.\n" * 40)
    Path("notes.toml").write_text("A text, no recipe. " * 40)
    Path("a.toml").write_text("[training]\nbatch_size = 3\nwindow = 5\n")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command, which ends with this status, and give what it printed on both streams."""

    def say(line: str, status: int = 2) -> str:
        capsys.readouterr()
        ended = command_line.main(shlex.split(line))
        said = "".join(capsys.readouterr())
        assert ended == status, said
        return said

    return say


Say = Callable[..., str]


def moved(folder: Path) -> None:
    """Let the text of a run be gone."""
    settings = recipe.override(recipe.load(folder / run_directory.RECIPE), {"corpus.source": ["/gone/prose.txt"]})
    (folder / run_directory.RECIPE).write_text(recipe.to_toml(settings), encoding="utf-8")
    about = json.loads((folder / run_directory.METADATA).read_text(encoding="utf-8"))
    about["recipe"] = recipe.to_tables(settings)
    (folder / run_directory.METADATA).write_text(json.dumps(about), encoding="utf-8")


def command(said: str) -> str:
    """The command at the end of a message, without the name of the program."""
    return said[said.rindex("keras-lstmgen ") :].removeprefix("keras-lstmgen ").rstrip("\n").rstrip("'")


def prepared_folder() -> str:
    """A prepared corpus as ``prepare`` writes it."""
    settings = recipe.override(recipe.Recipe(), {"corpus.source": ["b.txt"]})
    found, folder = token_cache.encode(settings, Path("cache")), Path("ids")
    folder.mkdir()
    (folder / prepared_corpus.TOKENIZER).write_bytes(found.tokenizer.model)
    sides = {}
    for split in token_cache.SPLITS:
        path = folder / f"{split}-00000.ids"
        getattr(found, split).tofile(path)
        sides[split] = [{"file": path.name, "tokens": len(getattr(found, split)), "sha256": token_cache.sha256(path)}]
    values = {"dtype": "<u2", "counts": found.counts, "start_id": found.start_id, "shards": sides}
    values |= {
        "unsampled_ids": list(found.unsampled_ids),
        "sha256": token_cache.sha256(folder / prepared_corpus.TOKENIZER),
    }
    (folder / folders.MANIFEST).write_text(json.dumps(prepared_corpus.manifest(settings, values)))
    return str(folder)


def _help(say: Say, _copied: Path) -> None:
    said = say("generate --n x")
    with pytest.raises(SystemExit) as ended:
        command_line.main(shlex.split(re.sub(r".*see 'keras-lstmgen (.*)'\n", r"\1", said)))
    assert ended.value.code == 0


def _recipe_with_a_text(say: Say, _copied: Path) -> None:
    assert "--corpus.source" in say("train a.toml b.txt")
    say("train a.toml --corpus.source b.txt", 0)
    assert "leave out one of them" in say("train b.txt --corpus.source b.txt")
    say(f"train --corpus.source b.txt {shlex.join(TINY)}", 0)


def _text_called_like_a_recipe(say: Say, _copied: Path) -> None:
    assert "--corpus.source" in say("train notes.toml")
    say(f"train --corpus.source notes.toml {shlex.join(TINY)}", 0)


def _beams(say: Say, copied: Path) -> None:
    short = f"generate {copied} --max-new-tokens 2"
    assert "--beams 2 finds no more" in say(f"{short} --beams 2 --n 3")
    say(f"{short} --beams 3 --n 3", 0)
    assert "give --beams too" in say(f"{short} --length-penalty 1")
    say(f"{short} --length-penalty 1 --beams 2", 0)
    assert "leave out either this option or --beams" in say(f"{short} --beams 2 --top-p 0.5")
    say(f"{short} --top-p 0.5", 0)
    say(f"{short} --beams 2", 0)


def _window(say: Say, _copied: Path) -> None:
    line = f"train b.txt --corpus.validation b.txt --corpus.documents lines --training.state carried {shlex.join(TINY)}"
    found = re.search(r"--training\.window \d+", said := say(line, 0))
    assert found, said
    assert "--training.window" not in say(f"{line} {found[0]}", 0)


def _prepared(say: Say, copied: Path) -> None:
    folder = prepared_folder()
    said = say(f"evaluate {copied} {folder}")
    say(f"{command(said)} {shlex.join(TINY)}", 0)
    with pytest.raises(UserError) as refused:
        partition.plan(recipe.Corpus(source=(folder,)))
    say(f"{command(str(refused.value))} {shlex.join(TINY)}", 0)


def _run_as_text(say: Say, copied: Path) -> None:
    say(command(say(f"train {copied}")), 0)


def _moved_text(say: Say, copied: Path) -> None:
    moved(copied)
    text = Path("b.txt").absolute()
    said = say(f"evaluate {copied}")
    assert said.endswith("; without it: name a text to evaluate on and give --samples 0\n")
    say(f"evaluate {copied} {text} --samples 0", 0)
    assert say(f"evaluate {copied} {text}").endswith("; without it: give --samples 0\n")
    line = f"evaluate {copied} {text} --samples 0 --evaluate.measures"
    assert say(f"{line} ngram").endswith("; without it: give --evaluate.measures without ngram\n")
    say(line, 0)
    said = say(f"train --resume {copied}")
    assert said.endswith("; give the new path of the text: --corpus.source PATH\n")
    say(f"train --resume {copied} --corpus.source b.txt", 0)


def _names(say: Say, _copied: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_directory, "range", lambda *_: range(1, 3), raising=False)
        for folder in ("x", "x-2"):
            Path("runs", folder).mkdir(parents=True)
        assert "give another --name" in say(f"train b.txt --name x --runs runs {shlex.join(TINY)}")
        say(f"train b.txt --name y --runs runs {shlex.join(TINY)}", 0)


def _no_run(say: Say, _copied: Path) -> None:
    for line in ("info x --runs none", "info --runs none"):
        say(f"{command(say(line))} {shlex.join(TINY)}", 0)


def _unfinished(say: Say, copied: Path) -> None:
    (copied / run_directory.MODEL).unlink()
    say(command(say(f"generate {copied}")), 0)


def _diverged(say: Say, copied: Path) -> None:
    controller = SimpleNamespace(
        progress=SimpleNamespace(windows=1, lately=loop.MAX_SETBACKS, setbacks=0), batches_per_epoch=1,
        settings=recipe.Training(),
    )  # fmt: skip
    training: Any = SimpleNamespace(folder=copied, model=None, controller=controller)
    with pytest.raises(UserError) as refused:
        loop.go_back(training, "the loss is lost")
    say(command(str(refused.value)), 0)
    for name in (run_directory.MODEL, run_directory.PREVIOUS):
        (copied / name).unlink()
    with pytest.raises(UserError) as refused:
        loop.go_back(training, "the loss is lost")
    found = re.search(r"--training\.learning_rate \S+", str(refused.value))
    assert found
    say(f"train b.txt {found[0]} --training.clip_norm 0.1 {shlex.join(TINY)}", 0)


def _fixed_value(say: Say, copied: Path) -> None:
    assert "--resume cannot change this option" in say(f"train --resume {copied} --model.units 13")
    say(f"train --resume {copied}", 0)


def _other_documents(say: Say, copied: Path) -> None:
    said = say(f"train --init-from {copied} b.txt --corpus.documents pairs")
    assert "give --corpus.documents, --corpus.field or --corpus.labels accordingly" in said
    say(f"train --init-from {copied} b.txt --corpus.documents stream {shlex.join(TINY)}", 0)


def _overfitting(say: Say, copied: Path) -> None:
    settings = recipe.override(recipe.load(copied / run_directory.RECIPE), {"model.dropout": 0.0})
    history = [{"val_loss": 1.0}, {"val_loss": 2.0}]
    said = training_hint.overfitting_hint(copied, settings, training_hint.MEASURED_CHARACTERS[0], history)
    say(f"{command(said)} {shlex.join(TINY)}", 0)


# By a part of the message.
SITUATIONS: dict[str, Callable[[Say, Path], None]] = {
    "--help'": _help, "a recipe must be the only argument": _recipe_with_a_text,
    "has no effect together with --corpus.source": _recipe_with_a_text, "is not TOML": _text_called_like_a_recipe,
    "finds no more than": _beams, "give --beams too": _beams, "leave out either this option or --beams": _beams,
    "--training.window {} reads each document whole": _window, "is already prepared; train on it": _prepared,
    "is a prepared corpus, not text": _prepared, "to continue its training": _run_as_text,
    "give --samples 0": _moved_text,
    "give --evaluate.measures without": _moved_text, "--corpus.source PATH": _moved_text, "give another --name": _names,
    "train one with 'keras-lstmgen train'": _no_run, "is not a finished run": _unfinished,
    "to continue from the last weights": _diverged, "train again with a lower": _diverged,
    "--corpus.labels accordingly": _other_documents,
    "--resume cannot change this option": _fixed_value, "these options lower the loss": _overfitting,
}  # fmt: skip


def test_every_hint_of_the_source_is_followed_by_a_test() -> None:
    known = [*SITUATIONS, *ELSEWHERE, *NO_ADVICE]
    found = hints()
    assert [hint for hint in found if not any(part in hint for part in known)] == []
    assert [part for part in known if not any(part in hint for hint in found)] == []
    for file, name in ELSEWHERE.values():
        assert f"def {name}(" in (ROOT / f"tests/test_{file}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("follow", list(dict.fromkeys(SITUATIONS.values())))
def test_a_hint_works_as_it_is_printed(follow: Callable[[Say, Path], None], say: Say, copied: Path) -> None:
    follow(say, copied)


def test_the_next_command_of_each_verb_works_as_it_is_printed(
    say: Say, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_run, "export", lambda _folder, _settings: {})
    line, verbs = f"info {shell_quoted(copied)}", []
    for _ in range(4):
        verbs.append(line.split()[0])
        build_parser().parse_args(shlex.split(line))
        line = command(say(line, 0))
    assert (verbs, line) == (["info", "generate", "evaluate", "export"], f"info {shell_quoted(copied)}")


def test_the_demo_ends_with_the_line_that_makes_its_commands_known() -> None:
    """So that the next command, which ``export`` prints, runs as it is printed."""
    lines = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lines
    *commands, last = lines[1].replace("$(BIN)", ".venv/bin").splitlines()
    for line in commands:
        build_parser().parse_args(shlex.split(line.strip())[1:])
    assert last.endswith(": source .venv/bin/activate'")


def test_a_run_names_its_texts_so_that_they_are_found_from_any_working_directory(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "m [2]"
    here.mkdir()
    shutil.copy("b.txt", here)
    monkeypatch.chdir(here)
    asked: list[recipe.Corpus] = []

    def fitted(data: TrainingData, folder: Path, *_: object) -> trainer.TrainingResult:
        asked.append(data.recipe.corpus)
        return trainer.TrainingResult(folder)

    monkeypatch.setattr(trainer, "_fit", fitted)
    for word in ("b.txt", "./b.txt", "'*.txt'", "."):
        say(f"train {word} --corpus.validation {word} --runs {tmp_path} {shlex.join(TINY)}", 0)
    monkeypatch.chdir("/")
    files = f"{here}/b.txt"
    expected = [files, files, f"{tmp_path}/m [[]2]/*.txt", str(here)]
    assert [(corpus.source, corpus.validation) for corpus in asked] == [((name,), (name,)) for name in expected]
    assert [str(source.path) for corpus in asked for source in sources.resolve(corpus)] == [files] * 4
    for name in ("pydoc", "-", "https://a.example/b.txt", "gs://a/b.txt", "gone.txt"):
        assert sources.with_absolute_paths(recipe.Corpus(source=(name,))).source == (name,)
