"""Trains in a process that is killed again and again: ``python -m tests.killing RECIPE FOLDER KILLS SEED``.

Before that it trains the same run in one go. TensorFlow is imported once, and no operator runs before a fork. Prints
a line of JSON for each attempt.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_lstmgen.config import recipe
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer
from keras_lstmgen.training.callbacks import saving
from keras_lstmgen.training.callbacks.controller import TrainingController

NAME = "run"
CHANGES = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "tempfile.mkdtemp", "shutil.rmtree")


def attempt(settings: recipe.Recipe, runs: Path) -> None:
    """Begin the run, or go on with it, as somebody at the keyboard would."""
    folder = runs / NAME
    if (folder / run_directory.RECIPE).is_file():
        trainer.resume(folder, recipe.load(folder / run_directory.RECIPE))
    else:
        trainer.train(settings, runs, NAME)


def die_at_change(number: int, runs: Path) -> None:
    """Kill this process right before the so-manieth change of the file system below ``runs``."""
    left = number

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and str(values[0]).startswith(str(runs)) and not (event == "open" and values[1] == "r"):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def tell_first_update(write: int) -> None:
    """Say through a pipe that the training is under way."""
    after = TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        if batch == 0:
            os.write(write, b".")
        after(pace, batch, logs)

    setattr(TrainingController, "on_train_batch_end", wrapped)  # noqa: B010 (mypy allows no assignment)


def forked(work: Callable[[int], None], delay: float | None = None) -> int:
    """Let a child work; its exit status. With a ``delay`` it is killed so many seconds after its first update."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        _work(work, write)
    os.close(write)
    if os.read(read, 1) and delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(work: Callable[[int], None], write: int) -> None:
    code = 1
    try:
        with open(os.devnull, "w") as sys.stdout:
            work(write)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Train in one go; then kill so often, by turns after a time and at a change. What ends before that begins anew."""
    settings, folder, kills = recipe.load(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(int(sys.argv[4]))
    ended = forked(lambda _: attempt(settings, folder / "straight")) == 0
    if not ended:
        sys.exit("it does not even train in one go")
    runs = 0
    while kills or not ended:
        change, delay = (dice.randrange(1, 60), None) if kills % 2 else (0, dice.uniform(0, 0.3))
        runs += ended
        work = partial(often_saved, settings, folder / f"killed-{runs}", change if kills else 0)
        status = forked(work, delay if kills else None)
        if status not in (0, -signal.SIGKILL):
            sys.exit(f"an attempt ended with {status}")
        kills, ended = kills - (status == -signal.SIGKILL), status == 0
        halves = [str(path) for path in folder.rglob(".writing-*")]
        print(json.dumps({"change": change, "delay": delay, "status": status, "halves": halves}), flush=True)


def often_saved(settings: recipe.Recipe, runs: Path, change: int, write: int) -> None:
    """An attempt that saves all the time, which takes longest."""
    saving.SAVE_INTERVAL, saving.MAX_SAVING_SHARE = 0.05, 1.0
    tell_first_update(write)
    if change:
        die_at_change(change, runs)
    attempt(settings, runs)


if __name__ == "__main__":
    main()
