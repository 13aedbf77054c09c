"""Train, export and generate for an hour while processes are killed, the disk fills up and files are damaged.

    python -m benchmarks.soak --minutes 60
    python -m benchmarks.soak --minutes 3 --seed 1

Each round does one thing to a training that goes on from round to round, or to an export of another run, which was
finished before, or to a text that this one writes into a file. Then it looks at what is left: the checkpoint opens, the
curve is a beginning of that of a training which nothing disturbed, no file is gone, and the finished run, its artifact
and its text have every byte that they had. A training that comes to its end has to have the weights of the undisturbed
one, to the last bit; then the next begins.

Every piece of work is a child of a process that has imported TensorFlow and runs none of its operators.
"""

import errno
import hashlib
import io
import json
import os
import pydoc_data.topics
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import measure
from benchmarks.measure import Table, console, publish
from export import client, contract
from export import tokenizer as kit
from export.tflite import generate as tflite
from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.system.native_stderr import captured_stderr

with captured_stderr():
    from keras_lstmgen.exporters import export_run
    from keras_lstmgen.models import run_directory
    from keras_lstmgen.training.callbacks import saving

SETTINGS = {
    "model.units": 32, "model.embedding_size": 16, "model.layers": 2, "model.dropout": 0.1, "training.batch_size": 8,
    "training.window": 32, "training.epochs": 5, "training.patience": 0, "export.texts": 12, "export.tokens": 40,
    "export.formats": ["tflite"],
}  # fmt: skip
CHARACTERS = 20_000
NAME = "run"
PROMPT, SEED, TOKENS = "The ", 7, 200  # of the text that must stay the same
TEXT = "text.txt"  # where generate writes it
TAKES_A_PLACE = {run_directory.PREVIOUS, run_directory.WHOLE}  # files that become another by being renamed
CHANGES = ("open", "os.rename", "os.mkdir", "os.remove")
FAULTS = (
    "SIGKILL in training", "SIGTERM in training", "full disk in training", "read-only disk in training",
    "checkpoint cut", "bit flipped in checkpoint", "cache removed", "SIGKILL in export", "full disk in export",
    "read-only disk in export", "SIGKILL in generate",
)  # fmt: skip


class Place(NamedTuple):
    """Where all of it lies, and what nothing disturbed."""

    folder: Path
    recipe: Path
    history: list[dict[str, float]]  # of the undisturbed training
    weights: str  # what its numbers amount to
    text: str  # what it writes
    seconds: dict[str, float]  # that a training, an export and a text take

    @property
    def finished(self) -> Path:
        """The undisturbed run."""
        return self.folder / "straight" / NAME

    @property
    def disturbed(self) -> Path:
        """The run that faults happen to."""
        return self.folder / "disturbed" / NAME


class Ended(NamedTuple):
    """How a child ended: its status, minus the number of a signal; what it said; its peak memory in bytes."""

    status: int
    said: str
    peak: int


def main(argv: Sequence[str] | None = None) -> int:
    """One round after the other until the time is over; 1 if anything was lost."""
    parser = measure.parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="how long")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the faults and their moments")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = soaked(Path(folder), arguments.minutes * 60, random.Random(arguments.seed))
    publish("soak", results, tables(results), arguments.results)
    return 1 if results["lost"] or results["bytes_lost"] else 0


def soaked(folder: Path, seconds: float, dice: random.Random) -> dict[str, Any]:
    """All rounds: how many of each fault there were, and what was found after them."""
    place = undisturbed(folder)
    began = time.monotonic()
    injected: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    lost: list[str] = []
    counts: Counter[str] = Counter(texts=0, finished=0, bytes_lost=0)
    peak, queue = 0, list[str]()
    while time.monotonic() - began < seconds:
        queue = queue or dice.sample(FAULTS, len(FAULTS))
        name = queue.pop()
        before = contents(place.folder)
        ended, happened = inject(place, name, dice)
        gone = bytes_lost(place, before)
        found = [*unexpected(name, ended), *damage(place), *([f"{gone:,} bytes lost"] if gone else [])]
        counts.update(bytes_lost=gone, texts=1, finished=settled(place, found))
        injected[name] += happened
        survived[name] += happened and not found
        lost += [f"{name}: {reason}" for reason in found]
        peak = max(peak, ended.peak)
        console.print(f"{time.monotonic() - began:5.0f} s  {name}: {'; '.join(found) or 'nothing lost'}", markup=False)
    counted = {name: {"injected": injected[name], "survived": survived[name]} for name in FAULTS}
    minutes = (time.monotonic() - began) / 60
    return {"minutes": minutes, "faults": counted, "lost": lost, "peak_bytes": peak, **counts}


def undisturbed(folder: Path) -> Place:
    """Train, export and write once, with nothing in the way."""
    text = folder / "text.txt"
    text.write_text("".join(pydoc_data.topics.topics.values())[:CHARACTERS], encoding="utf-8")
    settings = recipe.override(recipe.Recipe(), {"corpus.source": [str(text)], **SETTINGS})
    path = folder / f"{NAME}.toml"
    path.write_text(recipe.to_toml(settings), encoding="utf-8")
    place, times = Place(folder, path, [], "", "", {}), [time.monotonic()]
    works = {"training": typed("train", path, "--runs", folder / "straight")}
    works |= {kind: command(place, kind) for kind in ("export", "generate")}
    for work in works.values():
        ended = child(work)
        if ended.status:
            raise RuntimeError(f"it does not even work undisturbed: {ended.said}")
        times.append(time.monotonic())
    seconds = {kind: end - start for kind, (start, end) in zip(works, pairwise(times), strict=True)}
    history = json.loads((place.finished / "history.json").read_text(encoding="utf-8"))
    place = place._replace(history=history, weights=numbers(place.finished / run_directory.MODEL), seconds=seconds)
    return place._replace(text=written(place))


def typed(*words: str | Path) -> Callable[[], int]:
    """A command, as a piece of work for a child."""
    return lambda: command_line.main([str(word) for word in words])


def child(work: Callable[[], int], number: int = 0, after: float = 0.0) -> Ended:
    """Let a child work, and send it a signal, if there is a number, so many seconds later."""
    with tempfile.TemporaryFile("w+") as said:
        pid = os.fork()
        if not pid:
            _work(work, said)
        if number:
            time.sleep(after)
            os.kill(pid, number)
        _, status, used = os.wait4(pid, 0)
        said.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), said.read(), used.ru_maxrss * 1024)


def _work(work: Callable[[], int], said: Any) -> None:
    status = 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    saving.SAVE_INTERVAL, saving.MAX_SAVING_SHARE = 0.2, 1.0  # a checkpoint is hardly written when the next one comes
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            status = work()
    except BaseException as error:  # a traceback is what nobody should see
        said.write(f"Traceback: {error!r}")
    finally:
        said.flush()
        os._exit(status)


def inject(place: Place, name: str, dice: random.Random) -> tuple[Ended, bool]:
    """Let one thing happen; how the work ended that it happened to, and whether it came in time to happen."""
    kind = next((kind for kind in ("export", "generate") if kind in name), "training")
    work, usual = command(place, kind), place.seconds[kind]
    if "SIG" in name:
        number = signal.SIGKILL if "KILL" in name else signal.SIGTERM
        ended = child(work, number, dice.uniform(0, usual))
        return ended, ended.status != 0
    if "disk" in name:
        error = errno.ENOSPC if "full" in name else errno.EROFS
        first = dice.randrange(1, 12 if kind == "export" else 80)
        ended = child(lambda: refusing(work, place.folder, first, error))
        return ended, ended.status != 0
    if not place.disturbed.exists():  # the one before came to its end: there has to be something to harm
        child(work, signal.SIGKILL, dice.uniform(0.6, 0.9) * usual)
    happened = harm(place, name, dice)
    return child(work), happened


def command(place: Place, kind: str) -> Callable[[], int]:
    """What a fault happens to: the training, an export of the finished run, or a text of it in a file."""
    if kind == "training":
        return goes_on(place)
    if kind == "export":
        return typed("export", place.finished)
    drawn = ("--seed", str(SEED), "--temperature", "0.8", "--max-new-tokens", str(TOKENS))
    return typed("generate", place.finished, "--prompt", PROMPT, *drawn, "--output", place.finished / TEXT)


def goes_on(place: Place) -> Callable[[], int]:
    """The disturbed training, begun or gone on with, as somebody at the keyboard would."""
    if (place.disturbed / run_directory.RECIPE).is_file():
        return typed("train", "--resume", place.disturbed)
    return typed("train", place.recipe, "--runs", place.disturbed.parent)


def refusing(work: Callable[[], int], folder: Path, first: int, error: int) -> int:
    """Let the system refuse every change below ``folder`` from the so-manieth on."""
    left = first

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in CHANGES or not str(values[0]).startswith(str(folder)):
            return
        if event == "open" and not (set(values[1] or "") & set("wax+") or (values[2] or 0) & os.O_CREAT):
            return
        left -= 1
        if left <= 0 and event != "os.remove":  # to remove, there is always room
            raise OSError(error, os.strerror(error), str(values[0]))

    sys.addaudithook(hook)
    return work()


def harm(place: Place, name: str, dice: random.Random) -> bool:
    """Damage the newest checkpoint, or remove the cache. Whether there was one, and in it something to go back to."""
    cache, newest = place.disturbed.parent / ".encoded", place.disturbed / run_directory.CHECKPOINT
    before = place.disturbed / run_directory.PREVIOUS
    if name == "cache removed":
        shutil.rmtree(cache, ignore_errors=True)
        return place.disturbed.exists()
    if not newest.is_file() or not before.is_file() or newest.samefile(before):  # one, broken off while it got a second
        return False
    data = bytearray(newest.read_bytes())
    at = dice.randrange(len(data))
    data[at] ^= 1 << dice.randrange(8)
    newest.write_bytes(data[:at] if name == "checkpoint cut" else data)
    return True


def unexpected(name: str, ended: Ended) -> list[str]:
    """What is wrong with the way in which a command ended: there is one line, with the status that goes with it."""
    right = {0, 2}
    if "SIG" in name:
        right = {0, -signal.SIGKILL if "KILL" in name else 143, -signal.SIGTERM if "TERM" in name else 0}
    lines = ended.said.splitlines()
    found = [] if ended.status in right else [f"status {ended.status}: {ended.said[-200:]}"]
    if "Traceback" in ended.said or (ended.status == 2 and len(lines) != 1):
        found.append(f"not one line: {ended.said[-300:]}")
    return found


def damage(place: Place) -> list[str]:
    """What is lost of the run that goes on, and of the one that is finished."""
    found = [] if written(place) == place.text else ["the finished run writes another text"]
    if numbers(place.finished / run_directory.MODEL) != place.weights:
        found.append("the finished run has other weights")
    if "artifacts" not in json.loads((place.finished / export_run.RECORD).read_text(encoding="utf-8")):
        found.append("the record of the export is damaged")
    folder = place.disturbed
    saved = [path for path in (folder / run_directory.CHECKPOINT, folder / run_directory.PREVIOUS) if path.is_file()]
    if saved and not any(is_beginning(history_of(path), place.history) for path in saved):
        found.append("no checkpoint opens, or its curve is another")
    shown = folder / "history.json"
    if shown.is_file() and not is_beginning(json.loads(shown.read_text(encoding="utf-8")), place.history):
        found.append("the curve is another")
    return found


def history_of(path: Path) -> Any:
    """The curve in a checkpoint all of whose bytes are right; None if they are not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() else json.loads(archive.read("progress.json"))["history"]
    except (zipfile.BadZipFile, KeyError, ValueError, OSError):
        return None


def is_beginning(rows: Any, whole: list[dict[str, float]]) -> bool:
    """Whether rows are the first of a curve; the clock does not count."""
    if rows is None or len(rows) > len(whole):
        return False
    return all({**row, "seconds": 0} == {**other, "seconds": 0} for row, other in zip(rows, whole, strict=False))


def settled(place: Place, found: list[str]) -> int:
    """1 for a training that came to its end; it makes way for the next."""
    shown = place.disturbed / "history.json"
    if not shown.is_file() or len(json.loads(shown.read_text(encoding="utf-8"))) < len(place.history):
        return 0
    if not (place.disturbed / "metrics.json").is_file():
        return 0
    if numbers(place.disturbed / run_directory.MODEL) != place.weights:
        found.append("its weights are not those of the undisturbed training")
    shutil.rmtree(place.disturbed)
    return 1


def numbers(path: Path) -> str:
    """What the numbers in a ``.keras`` file amount to; the dates of its members do not count."""
    with zipfile.ZipFile(path) as archive:
        return hashlib.sha256(archive.read("model.weights.h5")).hexdigest()


def contents(folder: Path) -> dict[Path, bytes]:
    """The files below a folder that a fault may not take, with their bytes: some megabytes."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".writing-" not in str(path)]
    kept = [path for path in paths if path.name not in TAKES_A_PLACE and ".encoded" not in path.parts]
    return {path: path.read_bytes() for path in kept}


def bytes_lost(place: Place, before: dict[Path, bytes]) -> int:
    """Bytes of files that are gone; where nothing may change, also those that are others now, or cut off."""
    after = contents(place.folder)
    gone = sum(len(data) for path, data in before.items() if path not in after)
    same = [path for path in before if path in after and may_not_change(place, path)]
    return gone + sum(others(before[path], after[path]) for path in same)


def may_not_change(place: Place, path: Path) -> bool:
    """Whether it is the same when written anew: not in the run that goes on, nor where an export tells its speed."""
    return not path.is_relative_to(place.disturbed) and path.name != export_run.RECORD


def others(data: bytes, later: bytes) -> int:
    """How many bytes do not stand at their place in what is there later."""
    return sum(one != two for one, two in zip_longest(data, later[: len(data)]))


def written(place: Place) -> str:
    """What the finished run's artifact writes in a child: LiteRT has threads, which no fork takes along."""
    return child(lambda: _write(place)).said


def _write(place: Place) -> int:
    model = client.open_model(tflite.load, place.finished / "tflite/model.tflite")
    ids = contract.prompt_ids(kit.encode(model.tokenizer, PROMPT), model.metadata)
    options = contract.Options(temperature=0.8)
    tokens = contract.generate(model.step, ids, model.metadata, options, seed=SEED, max_new_tokens=TOKENS)
    sys.stderr.write(kit.decode(model.tokenizer, list(tokens)))
    return 0


def tables(results: dict[str, Any]) -> list[Table]:
    """Faults, and what was left after them."""
    rows = [[name, str(row["injected"]), str(row["survived"])] for name, row in results["faults"].items()]
    total = [str(sum(row[key] for row in results["faults"].values())) for key in ("injected", "survived")]
    facts = [
        ["bytes lost", f"{results['bytes_lost']:,}"],
        ["texts held against the first", f"{results['texts']:,}"],
        ["trainings that ended, with the undisturbed one's weights", f"{results['finished']:,}"],
        ["peak memory of a command, MB", f"{results['peak_bytes'] / 1e6:,.0f}"],
    ]
    title = f"{results['minutes']:.0f} minutes of trainings and exports under faults"
    columns = ("fault", "injected", "survived")
    return [
        Table(title, columns, [*rows, ["all", *total]]),
        Table("Left", ("what", ""), facts),
    ]


if __name__ == "__main__":
    sys.exit(main())
