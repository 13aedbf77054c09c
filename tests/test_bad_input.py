"""What cannot be used is told in one line that says what, where and what to do; nothing that was there is lost."""

import gzip
import hashlib
import io
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.files import spooling
from keras_lstmgen.models import run_directory
from keras_lstmgen.training.callbacks.saving import CheckpointSaver

TINY = shlex.split(
    "--model.units 7 --model.embedding_size 4 --training.batch_size 3 --training.window 5 --training.epochs 1"
)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    status = command_line.main([str(word) for word in words])
    err = capsys.readouterr().err
    assert status == 2, err
    assert re.fullmatch(r"keras-lstmgen: [^\n]+\n", err), err
    assert "Traceback" not in err
    return err.removeprefix("keras-lstmgen: ").rstrip("\n")


def contents(folder: Path) -> dict[str, str]:
    """The checksum of every file below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder for runs, in which no run may appear."""
    return tmp_path / "runs"


@pytest.fixture
def refuses_to_train(runs: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """``train`` with these words is refused, and leaves no run."""

    def train(*words: str | Path) -> str:
        said = refused(capsys, "train", "--runs", runs, *TINY, *words)
        assert [path.name for path in runs.glob("*") if path.name != ".encoded"] == []
        return said

    return train


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


# The corpus


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.txt", b"", r"empty\.txt: empty corpus; name a text in corpus\.source"),
        ("bom.txt", b"\xef\xbb\xbf", r"bom\.txt: empty corpus"),
        (
            "short.txt",
            b"abcdefghijklmno",
            r"13 tokens, but a window of 5 for each of 3 streams takes 16; lower training",
        ),
        ("latin.txt", b"a" * 99 + "ü".encode("latin-1") + b"b" * 99, r"latin\.txt: not UTF-8 at byte 99; convert it"),
        ("half.txt", b"a" * 70_000 + "字".encode()[:2], r"half\.txt: not UTF-8 at byte 70000"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, r"picture\.png: is a picture, not text in UTF-8; give text"),
        ("words.bin", b"words" * 9 + b"\0", r"words\.bin: binary file \(NUL at byte 45\); give text in UTF-8"),
        (
            "cut.gz",
            gzip.compress(b"abc" * 900, mtime=0)[:-9],
            r"cut\.gz: incomplete or damaged \.gz file .*; download or compress it again",
        ),
    ],
    ids=["empty", "mark alone", "short", "latin-1", "half a character", "picture", "binary", "half a .gz"],
)
def test_a_corpus_that_is_no_text(refuses_to_train: Any, tmp_path: Path, name: str, data: bytes, said: str) -> None:
    assert re.search(said, refuses_to_train(written(tmp_path / name, data)))


def test_an_empty_standard_input(refuses_to_train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    spooling.spool.cache_clear()
    assert "empty corpus" in refuses_to_train("-")


def test_a_folder_without_text(refuses_to_train: Any, tmp_path: Path) -> None:
    written(tmp_path / "folder" / "a.bin", b"\0")
    assert "folder: the folder contains no text file" in refuses_to_train(tmp_path / "folder")


def test_a_file_that_is_not_there(refuses_to_train: Any) -> None:
    assert "nowhere.txt: no file, folder or glob match in the working directory" in refuses_to_train("nowhere.txt")
    assert "nowhere.toml: there is no such recipe" in refuses_to_train("nowhere.toml")


def test_a_wrong_checksum(refuses_to_train: Any, text: Path) -> None:
    found = hashlib.sha256(text.read_bytes()).hexdigest()
    assert f"its sha256 is {found}, not 12ab; correct corpus.sha256" in refuses_to_train(
        text, "--corpus.sha256", "12ab"
    )


def test_a_download_without_a_checksum(refuses_to_train: Any) -> None:
    said = refuses_to_train("http://127.0.0.1:9/a.txt")
    assert "http://127.0.0.1:9/a.txt: a download needs its checksum in corpus.sha256" in said


def test_a_download_from_where_nobody_answers(
    refuses_to_train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = refuses_to_train("http://127.0.0.1:9/a.txt", "--corpus.sha256", "0" * 64)
    assert "http://127.0.0.1:9/a.txt: cannot be downloaded" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--tokenizer.type bpe --tokenizer.vocab_size 50000",
            r"50000 is more than this text allows; give at most \d+$",
        ),
        ("--tokenizer.vocab_size 3", r"tokenizer\.vocab_size = 3 leaves no room for text"),
        (
            "--corpus.validation_fraction 0",
            r"no validation text .*validation_fraction = 0; change the fraction",
        ),
        ("--name a/b", r"--name: 'a/b' is not a valid folder name; give one word without slashes"),
        ("--corpus.documents jsonl --corpus.field text", r"prose\.txt, line 1: invalid JSON"),
    ],
)
def test_a_text_that_does_not_suit_the_recipe(refuses_to_train: Any, text: Path, words: str, said: str) -> None:
    assert re.search(said, refuses_to_train(text, *words.split()))


# The command line and the recipe


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --model.unit 3", "there is no option '--model.unit'; the nearest is '--model.units'"),
        ("train --modle.layers=2", "there is no option '--modle.layers'; the nearest is '--model.layers'"),
        ("generate --temp 2", "there is no option '--temp'; the nearest is '--temperature'"),
        ("train --units 3", "there is no option '--units'; the nearest is '--model.units'"),
        ("generate --text b.txt", "there is no option '--text' here; it belongs to 'inspect'"),
        ("export --top-p 1", "'--top-p' here; it belongs to 'generate', 'chat' and 'inspect'"),
        ("evaluate --text b.txt", "there is no option '--text'; give the text without '--text' before it"),
        ("info --hlep", "there is no option '--hlep'; see 'keras-lstmgen info --help'"),
        ("train --temp 1", "no option '--temp' here; '--temperature' belongs to 'generate', 'chat' and 'inspect'"),
        ("generate --temprature 2", "there is no option '--temprature'; the nearest is '--temperature'"),
        ("train a.txt --name b c.txt", "c.txt: unexpected argument; place all arguments without a name together"),
        ("train --model.units many", "argument --model.units: 'many' is not a whole number; see 'keras-lstmgen"),
        ("train --model.tied yes", "argument --model.tied: 'yes' is not true or false; see"),
        ("train --model.units 0", "--model.units: 0 is out of range; give a number from 1 to 65536"),
        ("train --training.learning_rate nan", "--training.learning_rate: nan is out of range"),
        ("train --training.optimizer sgd", "--training.optimizer: 'sgd' is not one of adamw, adam"),
        ("train --training.epochs 0", "--training.epochs and training.minutes are both 0; set one of them"),
        (
            "train --model.tied true --model.units 256 --model.embedding_size 64",
            "--model.tied needs model.embedding_size = model.units, not 64 and 256",
        ),
        ("train a.toml b.txt", "a.toml: a recipe must be the only argument"),
        ("train b.txt --resume c", "--resume: the run already has a text and a name; give neither"),
        ("generate --prompt a --interactive", "argument --interactive: not allowed with argument --prompt"),
        ("generate --temperature -1", "temperature: -1.0 is out of range; give a number 0 (greedy)"),
        ("generate --top-p 0", "top_p: 0.0 is out of range; give a number above 0"),
        ("generate --top-k -1", "top_k: -1 is out of range"),
        ("generate --min-p 1.5", "min_p: 1.5 is out of range"),
        ("generate --repetition-penalty 0", "repetition_penalty: 0.0 is out of range"),
        ("generate --n 0", "--n: 0 is out of range; give 1 or more"),
        ("generate --max-new-tokens 0", "--max-new-tokens: 0 is out of range; give 1 or more"),
        ("evaluate --samples -1", "--samples: -1 is out of range; give 0 or more"),
        ("export --format pickle", "--format: invalid choice: 'pickle' (choose from 'saved_model', 'tflite', "),
        ("write", "argument verb: invalid choice: 'write'"),
        ("", "the following arguments are required: verb; see 'keras-lstmgen --help'"),
    ],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, *line.split())


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[model]\nunit = 3", "unknown key 'model.unit'; the nearest is 'model.units'"),
        ("[training]\nwindow = 0", "training.window: 0 is out of range; give a number from 1"),
        (
            "[export]\nformats = ['pickle']",
            "export.formats: 'pickle' is not one of saved_model, tflite, tflite_float16, tflite_int8, onnx, web",
        ),
        ("[model", "is not TOML"),
    ],
)
def test_a_recipe_that_makes_no_sense(refuses_to_train: Any, tmp_path: Path, toml: str, said: str) -> None:
    path = written(tmp_path / "mine.toml", toml.encode())
    assert f"{path}: " in (line := refuses_to_train(path))
    assert said in line


# The run


@pytest.mark.parametrize("verb", ["generate", "evaluate", "export", "info"])
def test_a_run_that_is_not_there(verb: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "smal: there is no such run; the nearest is 'small'" in refused(
        capsys, verb, "smal", "--runs", trained.parent
    )
    assert "x: there is no such run; train one with" in refused(capsys, verb, "x", "--runs", tmp_path)
    assert f"{tmp_path}: holds no run; train one with" in refused(capsys, verb, "--runs", tmp_path)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (run_directory.MODEL, "is not a finished run (model.keras is missing)"),
        (run_directory.TOKENIZER, "tokenizer.model is missing"),
        (run_directory.METADATA, "keras_lstmgen.json: cannot be read"),
    ],
)
def test_a_run_that_is_half_there(copied: Path, missing: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / missing).unlink()
    for verb in ("generate", "evaluate", "export"):
        assert said in refused(capsys, verb, copied)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_a_truncated_model_and_a_truncated_checkpoint(
    copied: Path, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (run_directory.MODEL, run_directory.CHECKPOINT, run_directory.PREVIOUS):
        data = (copied / name).read_bytes()
        (copied / name).write_bytes(data[: int(len(data) * part)])
    before = contents(copied)
    assert "model.keras: does not contain the weights of this model" in refused(capsys, "generate", copied)
    assert "checkpoint.keras: is damaged" in refused(capsys, "train", "--resume", copied, "--training.epochs", "9")
    assert contents(copied) == before


def test_a_run_without_a_checkpoint_cannot_be_gone_on_with(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / run_directory.CHECKPOINT).unlink()
    (copied / run_directory.PREVIOUS).unlink()
    assert "has no checkpoint to resume from; train it again" in refused(capsys, "train", "--resume", copied)


def test_a_run_whose_corpus_changed_cannot_be_gone_on_with(
    copied: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where the same characters stand in another order, so that the vocabulary is the same."""
    original = text.read_text(encoding="utf-8")
    turned = written(tmp_path / "turned.txt", (original[5000:10_000] + original[:5000] + original[10_000:]).encode())
    other = written(tmp_path / "other.txt", original[:9000].encode())
    before = contents(copied)
    for path in (turned, other):
        said = refused(capsys, "train", "--resume", copied, "--training.epochs", "9", "--corpus.source", path)
        assert f"{copied}: the corpus has changed since this run was trained; start a new run" in said
    assert contents(copied) == before


def test_a_run_cannot_change_its_model_on_the_way(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copied)
    said = refused(capsys, "train", "--resume", copied, "--model.units", "13")
    assert said == "--model.units: 13 differs from 12 in the run; --resume cannot change this option"
    assert contents(copied) == before


# Prompts and outputs


@pytest.mark.parametrize("prompt", ["", "床前明月光 😀", "\n", "\0", "▁"])
def test_any_prompt_works(trained: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["generate", str(trained), "--prompt", prompt, "--max-new-tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert len(out) > 15
    assert "\N{REPLACEMENT CHARACTER}" not in out


def test_a_prompt_that_is_not_utf_8(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "prompt.txt", b"abc\xff")
    assert f"{path}: not UTF-8 at byte 3; convert it" in refused(capsys, "generate", trained, "--prompt-file", path)
    assert "nowhere.txt: cannot be read" in refused(capsys, "generate", trained, "--prompt-file", "nowhere.txt")
    argument = os.fsdecode(b"abc\xff")  # as the shell hands it over
    assert "--prompt: 'abc\\xff' is not UTF-8 at byte 3" in refused(capsys, "generate", trained, "--prompt", argument)


def test_lines_that_are_not_utf_8(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    assert "standard input: not UTF-8" in refused(capsys, "generate", trained, "--interactive")


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "generate", trained, "--output", tmp_path / "nowhere" / "a.txt")
    assert f"there is no folder {tmp_path}/nowhere that may be written to" in said
    assert not (tmp_path / "nowhere").exists()
    before = contents(trained)
    assert "is a folder; name a file" in refused(capsys, "generate", trained, "--output", trained)
    assert contents(trained) == before


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may not be written to, by a process without root's rights."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    if root := os.geteuid() == 0:
        os.setresuid(65534, 65534, 0)
    yield folder
    if root:
        os.setresuid(0, 0, 0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_to(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "--runs", read_only / "runs", *TINY)
    assert re.search(r"could not be written \(Permission denied\)|cannot be made \(Permission denied\)", said)
    said = refused(capsys, "generate", "any", "--output", read_only / "a.txt")
    assert f"--output {read_only}/a.txt: there is no folder {read_only} that may be written to" in said


# A disk that is full


@pytest.fixture
def largest_file() -> Iterator[Any]:
    """Let the system refuse files beyond so many bytes, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_full_disk_while_a_checkpoint_is_saved_leaves_the_one_before_to_go_on_from(
    copied: Path, largest_file: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ("train", "--resume", copied, "--training.epochs", "3")
    before = contents(copied)
    with monkeypatch.context() as patch:
        patch.setattr(
            CheckpointSaver,
            "on_epoch_begin",
            lambda *_: largest_file((copied / run_directory.CHECKPOINT).stat().st_size // 2),
        )
        said = refused(capsys, *typed)
    largest_file(resource.RLIM_INFINITY)
    assert re.search(r"(checkpoint|model)\.keras: could not be written \(.+\); the previous version is kept", said)
    after = contents(copied)
    assert after[run_directory.CHECKPOINT] == before[run_directory.CHECKPOINT]
    assert after["history.json"] == before["history.json"]
    assert [name for name in after if ".writing-" in name] == []
    assert command_line.main([str(word) for word in typed]) == 0
    assert len(json.loads((copied / "history.json").read_text())) == 3


def test_a_full_disk_at_the_first_checkpoint_leaves_no_run(
    refuses_to_train: Any, text: Path, largest_file: Any
) -> None:
    largest_file(30_000)
    assert re.search(r"could not be written \(.+\)", refuses_to_train(text))


@pytest.mark.slow
def test_a_disk_that_is_full_to_the_last_byte(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real file system that has room for the weights, but not for the checkpoint too."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=240k", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    try:
        said = refused(capsys, "train", text, "--runs", disk, *TINY)
        assert re.search(r"could not be written \(.+\)|No space left", said)
        assert (
            command_line.main(["generate", str(disk / "prose"), "--max-new-tokens", "5"]) == 0
        )  # its weights were saved
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_loss_that_is_no_number_is_told_in_one_line(refuses_to_train: Any, text: Path) -> None:
    wild = ["--training.learning_rate", "10", "--training.weight_decay", "10", "--training.warmup", "0"]
    said = refuses_to_train(text, *wild)
    advice = "train again with a lower --training.clip_norm or a lower learning rate, for example --tr"
    assert re.match(rf"the loss .* in epoch 1, after halving the .* 3 times; {advice}", said)
