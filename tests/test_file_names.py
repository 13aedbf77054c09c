"""A file name is bytes: whatever they are, and whatever the locale, a text is read, stored and found again."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import sources
from keras_lstmgen.files import filenames
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import readable, shell_quoted

TINY = shlex.split(
    "--model.units 7 --model.embedding_size 4 --training.batch_size 3 --training.window 5 --training.epochs 1"
)
TEXT = "The old ferry.\nIt crosses the river.\n" * 40
NO_UTF_8 = os.fsdecode(b"caf\xe9")  # as a Windows archive is unpacked
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_a_stored_name_is_unicode_and_gives_back_the_bytes_of_the_name(name: bytes) -> None:
    stored = filenames.stored(filenames.of_argument(os.fsdecode(name)))
    assert stored.encode("utf-8")
    if not name.startswith(filenames.SCHEME.encode()):
        assert os.fsencode(filenames.native(stored)) == name
    assert readable(os.fsdecode(name)).encode("utf-8")


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_a_printed_path_is_typed_as_it_is_printed(name: bytes) -> None:
    word = shell_quoted(Path(os.fsdecode(name)))
    assert word.isprintable()
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert Path(os.fsdecode(printed)) == Path(os.fsdecode(name))


@pytest.mark.slow
def test_a_corpus_a_run_and_a_folder_whose_names_are_not_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{NO_UTF_8}.txt").write_text(TEXT)
    Path("elsewhere").mkdir()
    runs = str(tmp_path / NO_UTF_8)
    assert command_line.main(["train", f"{NO_UTF_8}.txt", "--runs", runs, "--name", NO_UTF_8, *TINY]) == 0
    folder = Path(runs, NO_UTF_8)
    assert recipe.load(folder / run_directory.RECIPE).corpus.source == (f"file://{tmp_path}/caf%E9.txt",)
    monkeypatch.chdir("elsewhere")
    short = [NO_UTF_8, "--runs", runs]
    for words in (
        ["evaluate", *short, "--samples", "1", "--sample-tokens", "5"],
        ["evaluate", NO_UTF_8, f"../{NO_UTF_8}.txt", *short[1:], "--samples", "0", "--json"],
        ["train", "--resume", *short, "--training.epochs", "2"],
        ["generate", *short, "--max-new-tokens", "3"],
        ["info", *short],
        ["export", *short, "--format", "tflite", "--texts", "2", "--tokens", "3"],
    ):
        assert command_line.main(words) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert "caf\\xe9" in out
    assert "caf\\351" in err  # as the next command is typed
    assert json.loads((folder / "evaluation.json").read_text())["text"] == "file:../caf%E9.txt"
    (source,) = sources.resolve(recipe.load(folder / run_directory.RECIPE).corpus)
    assert source.path == tmp_path / f"{NO_UTF_8}.txt"


@pytest.mark.slow
def test_names_and_prompts_are_utf_8_in_a_locale_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Übel.txt").write_text(TEXT)
    program = "import sys; from keras_lstmgen.cli.command_line import main; sys.exit(main())"

    def there(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *words], env=os.environ | PLAIN_C, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8")

    generate = ["generate", "zwölf", "--runs", "läufe", "--prompt", "Fähre: ", "--max-new-tokens", "20"]
    assert "läufe/zwölf" in there("train", "Übel.txt", "--runs", "läufe", "--name", "zwölf", *TINY)
    assert recipe.load(Path("läufe/zwölf", run_directory.RECIPE)).corpus.source == (str(tmp_path / "Übel.txt"),)
    text = there(*generate)
    assert command_line.main(generate) == 0
    assert capsys.readouterr().out == text
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    there("evaluate", "zwölf", "--runs", "../läufe", "--samples", "0")


@pytest.mark.parametrize("option", ["--prompt", "--stop", "--regex", "--logit-bias"])
def test_a_text_on_the_command_line_that_is_not_utf_8_is_one_line(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["generate", option, os.fsdecode(b"Th\xe9")]) == 2
    said = f"keras-lstmgen: argument {option}: 'Th\\xe9' is not UTF-8 at byte 2; convert it; see "
    assert capsys.readouterr().err.startswith(said)
