"""Signal handlers belong to the command line: a program that uses the package keeps its own, in whatever thread."""

import ast
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import keras_lstmgen
from keras_lstmgen.cli import chat_terminal, command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import signals
from keras_lstmgen.training import trainer
from keras_lstmgen.training.callbacks.controller import TrainingController
from tests.shown import shown

PACKAGE = Path(keras_lstmgen.__file__).parent
INSTALLERS = {"signal", "sigaction", "set_wakeup_fd", "siginterrupt", "setitimer"}


def in_thread(work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, called in a thread that is not the main one, or raise what it raises."""
    results, errors = list[Any](), list[BaseException]()

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def installers(path: Path) -> list[int]:
    """The lines on which a file calls what installs a signal handler."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        name.lineno
        for name in calls
        if isinstance(name, ast.Attribute) and ast.unparse(name.value) == "signal" and name.attr in INSTALLERS
    ]


def test_one_file_alone_installs_signal_handlers() -> None:
    assert [path.name for path in sorted(PACKAGE.rglob("*.py")) if installers(path)] == ["signals.py"]


@pytest.fixture
def short(settings: recipe.Recipe) -> recipe.Recipe:
    return recipe.override(settings, {"training.epochs": 1})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The handlers of Ctrl-C and SIGTERM during the second update of a training."""
    handlers, after = list[Any](), TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        if batch == 1:
            handlers.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))
        after(pace, batch, logs)

    monkeypatch.setattr(TrainingController, "on_train_batch_end", wrapped)
    return handlers


def test_a_training_runs_in_any_thread(short: recipe.Recipe, tmp_path: Path) -> None:
    folder = in_thread(lambda: trainer.train(short, tmp_path, "threaded").folder)
    assert (folder / run_directory.MODEL).is_file()


def test_a_command_runs_in_any_thread(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(trained), "--max-new-tokens", "7"]
    assert in_thread(lambda: command_line.main(words)) == 0
    assert "7 tokens" in capsys.readouterr().err


def test_a_program_keeps_its_own_handlers_while_it_trains(
    short: recipe.Recipe, tmp_path: Path, seen: list[Any]
) -> None:
    trainer.train(short, tmp_path, "called")
    assert seen == [signal.default_int_handler, signal.SIG_DFL]


def test_the_command_line_has_handlers_while_it_trains(short: recipe.Recipe, tmp_path: Path, seen: list[Any]) -> None:
    with signals.raise_terminated():
        shown(trainer.train, short, tmp_path, "typed")
    assert not {signal.default_int_handler, signal.SIG_DFL} & set(seen)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == [
        signal.default_int_handler,
        signal.SIG_DFL,
    ]


def test_a_conversation_and_the_meeting_of_workers_need_no_main_thread() -> None:
    def work() -> tuple[int, str]:
        with chat_terminal._counted_interrupts() as interrupts, signals.restored(signal.SIGINT, signal.SIGTERM):
            return interrupts(), "through"

    assert in_thread(work) == (0, "through")


def test_handlers_that_a_library_installs_are_undone() -> None:
    with signals.restored(signal.SIGTERM):
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_request_to_stop_is_refused_while_no_training_checks_for_it() -> None:
    stop = StopRequest()
    assert (stop.interrupt(), stop.terminate(), stop.interrupted, stop.terminated) == (False,) * 4
    with stop.accepting():
        assert stop.interrupt()
        assert not stop.interrupt()  # the second Ctrl-C ends the command at once
        assert (stop.interrupted, stop.terminated) == (True, False)
        assert stop.terminate()
    assert not stop.terminate()
    assert stop.terminated
