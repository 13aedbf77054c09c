"""Starts workers on this machine: ``python -m tests.working``, a line of JSON for each job, and one for each answer.

TensorFlow is imported once, no operator runs before a fork, and each worker is a fork. A job has

- ``jobs``: for each worker the words of its command line; null: it never comes,
- ``wait``: seconds for all to come,
- ``at``: [worker, batch, signal], which it sends itself after so many batches,
- ``measuring``: [worker, signal], which it sends itself while the chief measures, which here does not end.

The answer is the exit status and the standard error of each.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_lstmgen.cli import command_line
from keras_lstmgen.cli.verbs import train
from keras_lstmgen.distribution import workers
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.validation import Validation

assert train  # imported here, so that no worker has to


def signal_at(batch: int, number: int) -> None:
    """Let this process send itself a signal after so many batches of a training."""
    after = TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, index: int, logs: Any = None) -> None:
        if pace.progress.windows == batch:
            os.kill(os.getpid(), number)
        after(pace, index, logs)

    setattr(TrainingController, "on_train_batch_end", wrapped)  # noqa: B010 (mypy allows no assignment)


def signal_while_measuring(mine: bool, number: int) -> None:
    """Let a validation go on for two minutes, and this process, if it is the one, send itself a signal meanwhile."""
    judge = Validation.on_epoch_end

    def endless(*given: Any) -> float:
        for _ in range(1200):
            time.sleep(0.1)
            given[-1](0)
        raise TimeoutError("nobody has heeded the signal")

    def wrapped(validate: Validation, epoch: int, logs: Any = None) -> None:
        if mine:
            threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
        judge(validate, epoch, logs)

    setattr(likelihood, "stream_nll", endless)  # noqa: B010
    setattr(Validation, "on_epoch_end", wrapped)  # noqa: B010


def work(number: int, words: list[str], names: list[str], job: dict[str, Any], said: int) -> None:
    """Be one worker, and end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (it ends with the process; the one before has answers in it)
    if len(names) > 1:
        about = {"cluster": {"worker": names}, "task": {"type": "worker", "index": number}}
        os.environ["TF_CONFIG"] = json.dumps(about)
    workers.WAIT = job.get("wait", workers.WAIT)
    if job.get("at", [None])[0] == number:
        signal_at(*job["at"][1:])
    if "measuring" in job:
        signal_while_measuring(job["measuring"][0] == number, job["measuring"][1])
    code = 1
    try:
        code = command_line.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def names(count: int) -> list[str]:
    """Free addresses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def ended(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Start the workers of a job and wait until they have ended."""
    addresses, started = names(len(job["jobs"])), []
    with ExitStack() as stack:
        for number, words in enumerate(job["jobs"]):
            said = stack.enter_context(tempfile.TemporaryFile())
            if words is None:
                continue
            pid = os.fork()
            if not pid:
                work(number, words, addresses, job, said.fileno())
            started.append((pid, said))
        answers = []
        for pid, said in started:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said.seek(0)
            answers.append({"status": status, "said": said.read().decode()})
        return answers


def main() -> None:
    """Do one job after another."""
    for line in sys.stdin:
        print(json.dumps(ended(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
