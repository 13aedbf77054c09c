"""Whatever fails around a training, it is told in one line, nothing that was there is lost, and it can go on."""

import errno
import hashlib
import json
import os
import pydoc_data.topics
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import token_cache
from keras_lstmgen.files import atomic, spooling
from keras_lstmgen.models import run_directory
from keras_lstmgen.training.callbacks import saving
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.saving import CheckpointSaver

TINY = {
    "model.units": 7, "model.embedding_size": 4, "model.layers": 1, "training.batch_size": 3, "training.window": 17,
    "training.epochs": 2, "training.precision": "float32",
}  # fmt: skip
WRITTEN = (  # in this order
    "tokenizer.model", "train.ids", "validation.ids", "encoding.json", "recipe.toml", "prose/tokenizer.model",
    "keras_lstmgen.json", "checkpoint.keras", "model.keras", "history.json", "samples.txt", "metrics.json", "curve.png",
)  # fmt: skip
FULL = [(name, errno.ENOSPC) for name in WRITTEN]
READ_ONLY = [(name, errno.EROFS) for name in ("encoding.json", "checkpoint.keras", "samples.txt")]  # one of each kind


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """1,500 characters of prose: 26 windows an epoch."""
    path = tmp_path / "prose.txt"
    path.write_text("".join(pydoc_data.topics.topics.values())[:1500], encoding="utf-8")
    return path


def typed(*words: str | Path) -> list[str]:
    """A command line that trains a tiny model."""
    return ["train", *map(str, words), *(word for name, value in TINY.items() for word in (f"--{name}", str(value)))]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert command_line.main(words) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"keras-lstmgen: [^\n]+\n", err), err
    return err.removeprefix("keras-lstmgen: ").rstrip("\n")


def contents(folder: Path) -> dict[str, str]:
    """The checksum of every file below a folder, hidden ones too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def curve(folder: Path) -> list[tuple[float, ...]]:
    rows = json.loads((folder / "history.json").read_text())
    return [(row["windows"], row["loss"], row["val_loss"]) for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, ...]]:
    """The curve of the training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "prose.txt").write_text("".join(pydoc_data.topics.topics.values())[:1500], encoding="utf-8")
    assert command_line.main(typed(folder / "prose.txt", "--runs", folder)) == 0
    return curve(folder / "prose")


# The disk


def begun(runs: Path) -> bool:
    return (runs / "prose").exists()


@pytest.mark.parametrize("failures", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_disk_that_is_full_or_read_only_at_whatever_write_of_a_training(
    text: Path, tmp_path: Path, whole: Any, refusing: dict[str, int], capsys: Any, failures: list[tuple[str, int]]
) -> None:
    """One training meets all failures, one after another; after each it is started again, or resumed if it can be."""
    runs = tmp_path / "runs"
    atomic.write_text(runs / "other" / "precious.txt", "mine")
    for name, error in failures:
        again = ["train", "--resume", "prose", "--runs", str(runs)] if begun(runs) else typed(text, "--runs", runs)
        refusing[name] = error
        said = refused(capsys, again)
        assert name in said or "/.encoded/" in said
        assert os.strerror(error) in said
        refusing.clear()
        assert not list(runs.rglob(".writing-*"))
        assert (runs / "other/precious.txt").read_text() == "mine"
        # Before the file model.keras there is nothing to resume from.
        assert begun(runs) == (WRITTEN.index(name) > WRITTEN.index("model.keras"))
    assert command_line.main(["train", "--resume", "prose", "--runs", str(runs)]) == 0
    assert curve(runs / "prose") == whole


def test_logs_that_cannot_be_written_are_one_line_too(
    text: Path, tmp_path: Path, whole: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow writes them by itself: a file is in their place."""
    create = run_directory.create

    def created(*given: Any) -> Path:
        folder = create(*given)
        (folder / "logs").touch()
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "create", created)
        said = refused(capsys, typed(text, "--runs", tmp_path))
    assert said.startswith(f"{tmp_path}/prose/logs: could not be written (")
    assert not (tmp_path / "prose").exists()
    assert command_line.main(typed(text, "--runs", tmp_path)) == 0
    assert curve(tmp_path / "prose") == whole


def test_a_disk_that_fills_up_in_the_midst_of_a_training_keeps_both_checkpoints(
    text: Path, tmp_path: Path, whole: Any, refusing: dict[str, int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(saving, "MAX_SAVING_SHARE", float("inf"))  # a checkpoint after each update
    after = CheckpointSaver.on_train_batch_end

    def wrapped(keep: CheckpointSaver, batch: int, logs: Any = None) -> None:
        if keep.controller.progress.windows == 12:
            refusing["checkpoint"] = errno.ENOSPC
        after(keep, batch, logs)

    monkeypatch.setattr(CheckpointSaver, "on_train_batch_end", wrapped)
    said = refused(capsys, typed(text, "--runs", tmp_path))
    assert "checkpoint.keras: could not be written (No space left on device); the previous version is kept" in said
    refusing.clear()
    assert {path.name for path in (tmp_path / "prose").glob("*.keras")} == {
        run_directory.CHECKPOINT,
        run_directory.PREVIOUS,
    }
    monkeypatch.undo()
    assert command_line.main(["train", "--resume", "prose", "--runs", str(tmp_path)]) == 0
    assert curve(tmp_path / "prose") == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Real file systems of so many KiB, where this process may mount one."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here (needs root)")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_real_disks_that_are_too_small_by_less_and_less(
    text: Path, small_disk: Callable[[int], Path], whole: Any, capsys: Any
) -> None:
    """The last is large enough."""
    for size in (12, 200, 1000):
        disk = small_disk(size)
        if size == 1000:
            assert command_line.main(typed(text, "--runs", disk)) == 0
            assert curve(disk / "prose") == whole
        else:
            assert re.search(
                r"No space left|could not be written|cannot be made", refused(capsys, typed(text, "--runs", disk))
            )
        assert not list(disk.rglob(".writing-*"))


# The corpus


def test_a_corpus_that_changes_while_it_is_read_is_told_and_leaves_nothing_in_the_cache(
    text: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = token_cache.encode_split

    def wrapped(*given: Any) -> Any:
        with text.open("a") as file:
            file.write("and more")
        return write(*given)

    monkeypatch.setattr(token_cache, "encode_split", wrapped)
    said = refused(capsys, typed(text, "--runs", tmp_path / "runs"))
    assert said == "corpus.source: a text changed while it was read; train again when it is complete"
    assert {path.suffix for path in (tmp_path / "runs/.encoded").iterdir()} == {".lock"}


def test_a_corpus_that_changes_or_goes_while_it_is_trained_on_does_not_matter(
    text: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        after(pace, batch, logs)
        if pace.progress.windows == 5:
            text.write_text("something else")
        if pace.progress.windows == 30:
            text.unlink()

    monkeypatch.setattr(TrainingController, "on_train_batch_end", wrapped)
    assert command_line.main(typed(text, "--runs", tmp_path)) == 0
    assert curve(tmp_path / "prose") == whole


def test_two_runs_at_once_on_one_cache_encode_once_and_both_end_right(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = token_cache._write, []
    told: list[str] = []
    settings = recipe.override(recipe.Recipe(), {"corpus.source": str(text)})

    def slowly(*given: Any) -> None:
        written.append(given)
        time.sleep(0.5)
        write(*given)

    monkeypatch.setattr(token_cache, "_write", slowly)
    found: list[token_cache.Encoded] = []
    threads = [
        threading.Thread(target=lambda: found.append(token_cache.encode(settings, tmp_path / "cache", told.append)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert told.count("Waiting for another run that encodes this text") == 2
    for one in found:
        np.testing.assert_array_equal(one.train, found[0].train)
    assert len(found) == 3


def test_what_a_killed_process_left_half_written_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from keras_lstmgen.files import atomic\n"
        "with atomic.replacing(Path(sys.argv[1]) / 'a.txt') as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".writing-*/a.txt"))) == 1
    with atomic.replacing(tmp_path / "b.txt") as living:
        living.write_text("b")
        atomic.write_text(tmp_path / "c.txt", "c")
        assert list(tmp_path.glob(".writing-*/*")) == [living]
    assert {path.name for path in tmp_path.iterdir()} == {"b.txt", "c.txt"}


# The memory


@pytest.mark.skipif(sys.platform != "linux", reason="no system that limits what a process maps for itself")
def test_a_corpus_is_encoded_in_less_memory_than_it_has_bytes(tmp_path: Path) -> None:
    """80 MiB for all that the process has to itself, the stacks of its threads among it; the text has 84."""
    line = " ".join(f"{'x' * 190}{number}" for number in range(10)) + "\n"
    (tmp_path / "text.txt").write_text(line * (84 * 2**20 // len(line)))
    code = (
        "import sys; from pathlib import Path\n"
        "from keras_lstmgen.config import recipe; from keras_lstmgen.data import token_cache\n"
        "values = {'corpus.source': [sys.argv[1]], 'tokenizer.type': 'word'}\n"
        "found = token_cache.encode(recipe.override(recipe.Recipe(), values), Path(sys.argv[2]))\n"
        "print(sum(counts['bytes'] for counts in found.counts.values()))\n"
        "try: Path(sys.argv[1]).read_bytes()\n"
        "except MemoryError: print('and not at once')"
    )
    command = ["bash", "-c", f'ulimit -d {80 * 1024} -s 1024; exec {sys.executable} -c "$0" "$@"', code]
    ended = subprocess.run(
        [*command, tmp_path / "text.txt", tmp_path / "cache"], capture_output=True, text=True, check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    size = (tmp_path / "text.txt").stat().st_size
    assert (ended.stdout, ended.stderr) == (f"{size}\nand not at once\n", "")
    (tmp_path / "text.txt").unlink()


# The network


def test_a_machine_without_a_network_is_told_so_in_one_line(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    spooling.spool.cache_clear()
    words = typed("https://example.org/a.txt", "--corpus.sha256", "0" * 64, "--runs", tmp_path / "runs")
    said = refused(capsys, words)
    assert said.startswith("https://example.org/a.txt: cannot be downloaded (")
    assert said.endswith("Temporary failure in name resolution); check the address and the network")
    assert contents(tmp_path / "cache") == {}


# Signals


def seconds_of_a_core(pid: int) -> float:
    """What a process has used so far: the clock on the wall also goes while others have the machine."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_sigterm_ends_a_training_within_ten_seconds_with_status_143_and_it_can_be_gone_on_with(
    text: Path, tmp_path: Path
) -> None:
    words = typed(text, "--runs", tmp_path, "--training.patience", "0")
    words[words.index("--training.epochs") + 1] = "100000"
    program = "import sys; from keras_lstmgen.cli.command_line import main; sys.exit(main())"
    command = [sys.executable, "-u", "-c", program, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout
        assert started.stderr
        assert any(line.startswith("epoch 1 ") for line in started.stdout)  # it trains
        before = seconds_of_a_core(started.pid)
        started.send_signal(signal.SIGTERM)
        err = started.stderr.read()
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    assert used.ru_utime + used.ru_stime - before < 10
    folder = tmp_path / "prose"
    said = f"keras-lstmgen: stopped by SIGTERM, checkpoint saved; to continue: keras-lstmgen train --resume {folder}\n"
    assert (started.returncode, err) == (143, said)
    epochs = len(curve(folder)) + 1
    assert command_line.main(["train", "--resume", str(folder), "--training.epochs", str(epochs)]) == 0
    assert curve(folder)[-1][0] == epochs * 26


def test_sigterm_before_the_training_leaves_nothing_half_written(
    text: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "encode_split", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert command_line.main(typed(text, "--runs", tmp_path / "runs")) == 143
    assert capsys.readouterr().err == "keras-lstmgen: stopped by SIGTERM; no earlier result is lost\n"
    assert {path.suffix for path in (tmp_path / "runs/.encoded").iterdir()} == {".lock"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_python_passes_over_comes_again(
    text: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a handler raises in the callback of a weak reference, Python writes down and forgets."""

    def passed_over_at_first(*_: Any) -> None:
        something = threading.Event()
        reference = weakref.ref(something, lambda _: signal.raise_signal(signal.SIGTERM))
        del something
        assert reference() is None
        time.sleep(10)

    monkeypatch.setattr(token_cache, "encode_split", passed_over_at_first)
    assert command_line.main(typed(text, "--runs", tmp_path / "runs")) == 143
    assert capsys.readouterr().err == "keras-lstmgen: stopped by SIGTERM; no earlier result is lost\n"


def children() -> set[str]:
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_vocabulary_is_learned_is_heeded_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    """SentencePiece has a second or more to go, and hears of no signal."""
    dice = np.random.default_rng(0)
    words = ["".join(dice.choice(list("abcdefghijklmnop"), dice.integers(2, 11))) for _ in range(12_000)]
    (tmp_path / "words.txt").write_text("\n".join(" ".join(words[n : n + 9]) for n in range(12_000 - 9)))
    start, before, asked = subprocess.Popen, children(), []

    def start_and_ask(*given: Any, **options: Any) -> Any:
        def ask() -> None:
            asked.append(time.monotonic())
            os.kill(os.getpid(), number)

        threading.Timer(0.2, ask).start()
        return start(*given, **options)

    monkeypatch.setattr(subprocess, "Popen", start_and_ask)
    kind = ["--tokenizer.type", "unigram", "--tokenizer.vocab_size", "8000"]
    assert command_line.main(typed(tmp_path / "words.txt", "--runs", tmp_path / "runs", *kind)) == status
    assert time.monotonic() - asked[0] < 10
    assert len(capsys.readouterr().err.splitlines()) == (status == 143)
    assert {path.suffix for path in (tmp_path / "runs/.encoded").iterdir()} == {".lock"}
    assert children() == before
