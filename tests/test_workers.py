"""Several workers train what one process trains: its losses, its checkpoint, its files; and what fails is told."""

import io
import json
import os
import pydoc_data.topics
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.distribution import launcher, workers
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import cpu, signals
from keras_lstmgen.utils.errors import Terminated, UserError

B = 6  # rows of a batch, which two and three workers share
TINY = {
    "model.embedding_size": 5, "model.units": 12, "model.layers": 1, "training.batch_size": B, "training.window": 17,
    "training.epochs": 2, "training.precision": "float32",
}  # fmt: skip
REGULAR = {
    "model.layers": 2, "model.dropout": 0.3, "model.weight_drop": 0.2, "model.embedding_dropout": 0.1,
    "model.attention": 3, "model.activation_regularization": 1, "training.average": 5,
}  # fmt: skip
TOLERANCE = 1e-4  # of a loss in nats, after the updates of two epochs whose sums were added up in another order


class Ended(NamedTuple):
    """A worker that has ended."""

    status: int
    said: str


Work = Callable[..., list[Ended]]


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    """Start workers, all with the same words, and wait for their ends: ``work(count, words, at=[1, 9, SIGKILL])``."""
    command = [sys.executable, "-m", "tests.working"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout

        def start(count: int, words: list[Any], come: int | None = None, **values: Any) -> list[Ended]:
            assert server.stdin
            assert server.stdout
            jobs = [list(map(str, words)) if come is None or number < come else None for number in range(count)]
            server.stdin.write(json.dumps({"jobs": jobs, **values}) + "\n")
            server.stdin.flush()
            return [Ended(**answer) for answer in json.loads(server.stdout.readline())]

        yield start
        server.stdin.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, pairs, and room for runs."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "prose.txt").write_text("".join(pydoc_data.topics.topics.values())[:3_000], encoding="utf-8")
    pairs = (f"what is {'so ' * (n % 5)}{n}?\tit is {'!' * (n % 4)}{n % 7}" for n in range(90))
    (folder / "pairs.tsv").write_text("\n".join(pairs), encoding="utf-8")
    return folder


def training(folder: Path, name: str, values: dict[str, Any] | None = None, text: str = "prose.txt") -> list[Any]:
    """The words that train a tiny model."""
    words = [word for key, value in (TINY | (values or {})).items() for word in (f"--{key}", value)]
    return ["train", text if text == "-" else folder / text, "--runs", folder / "runs", "--name", name, *words]


def resuming(folder: Path, name: str) -> list[Any]:
    return ["train", "--resume", folder / "runs" / name, "--runs", folder / "runs"]


def did(answers: list[Ended], *statuses: int) -> None:
    assert [answer.status for answer in answers] == list(statuses), answers


def losses(folder: Path, name: str) -> list[list[float]]:
    rows = json.loads((folder / "runs" / name / "history.json").read_text())
    return [[row["windows"], row["loss"], row["val_loss"]] for row in rows]


def carried(folder: Path, name: str) -> list[Any]:
    """What a checkpoint hands on from batch to batch."""
    with zipfile.ZipFile(folder / "runs" / name / run_directory.CHECKPOINT) as archive:
        return list(np.load(io.BytesIO(archive.read("carried.npz"))).values())


def the_same(folder: Path, one: str, other: str) -> None:
    """Two runs have the same curve, weights and carried states, but for rounding."""
    assert len(losses(folder, one)) > 0
    np.testing.assert_allclose(losses(folder, other), losses(folder, one), atol=TOLERANCE)
    models = [run_directory.load(folder / "runs" / name).model.get_weights() for name in (one, other)]
    for weights, others in zip(*models, strict=True):
        np.testing.assert_allclose(others, weights, atol=1e-3)
    for state, others in zip(carried(folder, one), carried(folder, other), strict=True):
        assert state.shape == others.shape
        np.testing.assert_allclose(others, state, atol=1e-3)


def files(folder: Path) -> set[str]:
    """The files below a folder but TensorBoard's, which bear the time in their names, and those of the cache."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith("logs")}


@pytest.fixture(scope="module")
def alone(work: Work, folder: Path) -> str:
    """The run of one process, with all that is drawn by chance."""
    did(work(1, training(folder, "alone", REGULAR)), 0)
    return "alone"


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_train_what_one_process_trains_dropout_and_all(
    work: Work, folder: Path, alone: str, count: int
) -> None:
    did(work(count, training(folder, f"of {count}", REGULAR)), *[0] * count)
    the_same(folder, alone, f"of {count}")
    rows = {state.shape[0] for state in carried(folder, f"of {count}") if state.ndim > 1}
    assert rows == {B}
    assert files(folder / "runs" / f"of {count}") == files(folder / "runs" / alone)
    written = [path.parent.name for path in (folder / "runs" / f"of {count}" / "logs").rglob("events*")]
    assert sorted(written) == ["steps", "train", "validation"]


@pytest.mark.slow
def test_pairs_too(work: Work, folder: Path) -> None:
    words = {"corpus.documents": "pairs", "training.source_loss": 0.3, "model.dropout": 0.3}
    did(work(1, training(folder, "pairs", words, "pairs.tsv")), 0)
    did(work(2, training(folder, "pairs of 2", words, "pairs.tsv")), 0, 0)
    the_same(folder, "pairs", "pairs of 2")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_others_say_so_and_all_can_go_on(
    work: Work, folder: Path, alone: str, killed: int
) -> None:
    name = f"without {killed}"
    answers = work(2, training(folder, name, REGULAR), at=[killed, len_of_epoch(folder, alone) + 4, signal.SIGKILL])
    assert answers[killed].status == -signal.SIGKILL
    assert answers[1 - killed].status == 2
    [line] = answers[1 - killed].said.splitlines()
    assert line.startswith(f"keras-lstmgen: worker {1 - killed} of 2: another worker has ended")
    assert "--resume" in line
    count = 3 if killed else 1  # they may be more or fewer then
    did(work(count, resuming(folder, name)), *[0] * count)
    the_same(folder, alone, name)


def len_of_epoch(folder: Path, name: str) -> int:
    return int(losses(folder, name)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_what_one_of_them_is_asked_ends_all_and_is_gone_on_with(
    work: Work, folder: Path, alone: str, number: int, status: int
) -> None:
    did(work(2, training(folder, f"asked {number}", REGULAR), at=[1, 7, number]), status, status)
    if not status:
        assert losses(folder, f"asked {number}")[0][0] == 8
    did(work(2, resuming(folder, f"asked {number}")), 0, 0)
    whole = losses(folder, f"asked {number}")[-2:]
    np.testing.assert_allclose(whole, losses(folder, alone), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_sigterm_that_one_of_them_gets_while_the_chief_measures_does_not_wait_for_the_end_of_that(
    work: Work, folder: Path, alone: str, number: int
) -> None:
    name = f"measuring {number}"
    did(work(2, training(folder, name, REGULAR), measuring=[number, signal.SIGTERM]), 143, 143)
    assert not (folder / "runs" / name / "history.json").exists()
    did(work(2, resuming(folder, name)), 0, 0)
    the_same(folder, alone, name)


def test_they_stop_early_together(work: Work, folder: Path) -> None:
    values = {"training.patience": 1, "training.epochs": 9, "training.learning_rate": 0.5}
    did(work(1, training(folder, "stale", values)), 0)
    did(work(2, training(folder, "stale of 2", values)), 0, 0)
    epochs = [len(losses(folder, name)) for name in ("stale", "stale of 2")]
    assert epochs[0] == epochs[1] < 9


def test_minutes_are_those_of_the_chief(work: Work, folder: Path) -> None:
    did(work(2, training(folder, "timed", {"training.epochs": 0, "training.minutes": 0.03})), 0, 0)
    assert losses(folder, "timed")[-1][0] > 0


def test_one_that_never_comes_is_named_after_a_time(work: Work, folder: Path) -> None:
    for come in (2, 1):
        answers = work(3, training(folder, "waiting"), come=come, wait=4)
        did(answers, *[2] * come)
        for answer in answers:
            [line] = answer.said.splitlines()
            assert line.startswith("keras-lstmgen: worker ")
            assert "2 (127.0.0.1:" in line
            assert line.endswith("has not connected within 4 seconds; start all workers again")
    assert not (folder / "runs/waiting").exists()


def test_what_the_chief_cannot_use_it_says_itself(work: Work, folder: Path) -> None:
    for name, values, text, said in (
        ("uneven", {"training.batch_size": 5}, "prose.txt", "5 rows cannot be divided evenly among 2 workers"),
        ("no text", {}, "no.txt", "no.txt: no file"),
        ("stdin", {}, "-", "'-' can be read only once"),
    ):
        chief, other = work(2, training(folder, name, values, text))
        assert (chief.status, other.status) == (2, 2)
        [line] = chief.said.splitlines()
        assert said in line
        [line] = other.said.splitlines()
        assert "another worker has ended" in line
        assert not (folder / "runs" / name).exists()


def test_the_chief_takes_nobody_for_a_worker_who_is_none_and_none_for_two() -> None:
    names = [f"127.0.0.1:{port}" for port in launcher._free_ports(3)]
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        missing = pool.submit(workers._accept_workers, names, time.monotonic() + 60)
        guests = [stack.enter_context(greeting(names[0], said)) for said in (b"9", b"0", b"-1", b"x", b"1", b"1", b"2")]
        assert missing.result(60) == []
        assert [guest.makefile("rb").readline() for guest in guests] == [*[b""] * 4, b"[]\n", b"", b"[]\n"]


def greeting(name: str, said: bytes) -> socket.socket:
    """A connection to the chief, once it is there."""
    until = time.monotonic() + 60
    while True:
        try:
            door = socket.create_connection(workers._address(name), timeout=60)
            door.sendall(said)
            return door
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize(("host", "bound"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("a", "0.0.0.0")])
def test_the_chief_of_workers_on_one_machine_listens_to_that_machine_alone(host: str, bound: str) -> None:
    (port,) = launcher._free_ports(1)
    with workers._listen(f"{host}:{port}") as door:
        assert door.getsockname()[0] == bound


@pytest.mark.parametrize(
    "said",
    [
        "{", "[]", "{}", '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)  # fmt: skip
def test_a_cluster_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("TF_CONFIG", said)
    with pytest.raises(UserError, match="TF_CONFIG: invalid"), workers.connected():
        pass


def test_the_chief_comes_before_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"worker": ["a:1", "b:1"], "chief": ["c:1"]}
    for kind, index, rank in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))
        assert workers._read_config() == (["c:1", "a:1", "b:1"], rank)


def test_a_cluster_of_one_is_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(about))
    with workers.connected():
        assert workers.size() == 1
        assert workers.batch_rows(B) == slice(0, B)
        assert workers.broadcast_json("x") == "x"


# The examples of docs/scale.md


PAGE = Path(__file__).parents[1].joinpath("docs/scale.md").read_text(encoding="utf-8")


def slurm() -> str:
    """The script, without the margin of its block."""
    return textwrap.dedent(re.findall(r"### Slurm\n\n((?:    .*\n)+)", PAGE)[0])


def kubernetes() -> str:
    """The words of the container, as YAML folds them."""
    return " ".join(re.findall(r"- >-\n(.*?)```", PAGE, re.DOTALL)[0].split())


@pytest.mark.parametrize(
    ("script", "variables", "named"),
    [
        (slurm, {"SLURM_PROCID": "1"}, ["one:2222", "two:2222"]),
        (kubernetes, {"JOB_COMPLETION_INDEX": "1"}, ["lstm-0.lstm:2222", "lstm-1.lstm:2222"]),
    ],
)
def test_the_examples_name_the_workers_and_go_on_with_the_run_where_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[], str],
    variables: dict[str, str],
    named: list[str],
) -> None:
    for name, does in (
        ("srun", 'exec "$@"'),
        ("scontrol", "printf 'one\\ntwo\\n'"),
        ("python", f'exec {sys.executable} "$@"'),
        ("keras-lstmgen", f'echo "$TF_CONFIG" > {tmp_path}/TF_CONFIG; echo "$@" > {tmp_path}/words'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "script").write_text(script().replace("/shared", str(tmp_path)))
    environment = os.environ | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    runs = tmp_path / "saved_models"
    for words in (f"{tmp_path}/ids --name big", f"--resume {runs}/big"):
        subprocess.run(["bash", tmp_path / "script"], env=environment, check=True)
        assert (tmp_path / "words").read_text() == f"train --runs {runs} {words}\n"
        (runs / "big").mkdir(parents=True, exist_ok=True)
        (runs / "big/recipe.toml").touch()
    monkeypatch.setenv("TF_CONFIG", (tmp_path / "TF_CONFIG").read_text())
    assert workers._read_config() == (named, 1)


# train --workers


@pytest.mark.slow
def test_the_command_starts_them_itself(folder: Path, work: Work) -> None:
    command = [
        sys.executable,
        "-m",
        "keras_lstmgen.train",
        *map(str, training(folder, "started")[1:]),
        "--workers",
        "2",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "next: keras-lstmgen generate" in ended.stdout
    assert ended.stdout.count("best epoch") == 1
    did(work(1, training(folder, "plain")), 0)
    the_same(folder, "plain", "started")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``launch``, with programs of Python in the places of the workers."""

    started = subprocess.Popen

    def launch(*texts: str) -> int:
        waiting = iter(texts)

        def start(_: list[str], **options: Any) -> Any:
            return started([sys.executable, "-c", next(waiting)], **options)

        monkeypatch.setattr(subprocess, "Popen", start)
        return launcher.launch(["train"], len(texts))

    return launch


def test_one_that_fails_ends_the_others_and_is_the_one_that_is_heard(
    programs: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    sleep, fail = "import time; time.sleep(60)", "import sys; print('mine', file=sys.stderr); sys.exit(2)"
    assert programs(sleep, fail) == 2
    assert capsys.readouterr().err == "mine\n"
    with pytest.raises(UserError, match=r"worker 0 was ended by SIGKILL; .* keras-lstmgen train --resume RUN"):
        programs("import os; os.kill(os.getpid(), 9)", sleep)
    assert programs("pass", "pass") == 0


@pytest.mark.parametrize("what", ["SIGTERM", "Cannot allocate memory"])
def test_what_happens_while_they_are_started_leaves_none(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    started, begun = subprocess.Popen, list[Any]()

    def start(_: list[str], **options: Any) -> Any:
        if len(begun) == 1 and what != "SIGTERM":
            raise OSError(what)
        begun.append(started([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        if len(begun) == 2:
            signal.raise_signal(signal.SIGTERM)
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises((Terminated, OSError), match=what), signals.raise_terminated():
        launcher.launch(["train"], 3)
    assert len(begun) == 1 + (what == "SIGTERM")
    assert all(worker.returncode is not None for worker in begun)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_workers_that_are_named_already_are_not_started_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert command_line.main(["train", "--workers", "2"]) == 2
    said = "--workers 2: TF_CONFIG is set and already lists the workers; leave out one of the two"
    assert capsys.readouterr().err == f"keras-lstmgen: {said}\n"


def test_gpus_that_would_be_idle_are_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert command_line.main(["train", "no.txt"]) == 2
    said = "Using 1 of 4 GPUs: --workers 4 uses all GPUs; training.batch_size must be a multiple of 4\n"
    assert capsys.readouterr().out == said
    with pytest.raises(UserError, match="--workers 5: each worker needs its own GPU"):
        launcher.launch(["train"], 5)
    assert capsys.readouterr().out == ""


def test_each_has_its_place_its_cores_and_its_gpu(
    monkeypatch: pytest.MonkeyPatch, programs: Callable[..., int], tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    report = (
        "import json, os; about = json.loads(os.environ['TF_CONFIG']); number = about['task']['index']; import time; "
        "time.sleep(0.5); cores = sorted(os.sched_getaffinity(0)); gpu = os.environ['CUDA_VISIBLE_DEVICES']; "
        f"json.dump([about['cluster'], cores, gpu], open(f'{tmp_path}/{{number}}', 'w'))"
    )
    assert programs(report, report) == 0
    first, second = (json.loads((tmp_path / str(number)).read_text()) for number in range(2))
    assert first[0] == second[0]
    assert len(set(first[0]["worker"])) == 2
    assert (first[2], second[2]) == ("3", "5")
    if cpu.available() > 1:
        assert set(first[1]) | set(second[1]) == os.sched_getaffinity(0)
        assert not set(first[1]) & set(second[1])
    with pytest.raises(UserError, match="--workers 3: each worker needs its own GPU, but this machine has 2"):
        programs(report, report, report)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launcher._gpus() == []
