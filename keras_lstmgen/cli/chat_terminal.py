"""The terminal of a chat: reads lines and commands, shows answers, and handles Ctrl-C."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.markup import escape
from rich.text import Text

from keras_lstmgen.cli import console
from keras_lstmgen.data import splits
from keras_lstmgen.generation.chat_session import ChatSession
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.system import signals
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError

PROMPT = "> "
MAX_INTERRUPTS = 2  # consecutive Ctrl-C, without a line between them, that end the chat
HELP = """\
/again     generate another answer to the last turn
/forget    start a new conversation
/seed N    set the seed of the next answer
/quit      end the chat; Ctrl-D or Ctrl-C twice also end it; Ctrl-C once interrupts an answer
/help      show this list"""
Answer = Callable[[Callable[[str], None], Callable[[], bool]], Sample]


def converse(session: ChatSession) -> None:
    """Answer the lines of standard input until its end or ``/quit``.

    Standard output shows only the answers; notes go to standard error.

    Args:
        session: the conversation.

    Raises:
        UserError: if standard input is not a terminal and a line cannot be read or answered.
    """
    import readline  # noqa: F401  # enables editing of lines in ``input``

    interrupts, settings = 0, session.model.run.recipe.corpus
    _note("Type a line. /help lists the commands.")
    while interrupts < MAX_INTERRUPTS:
        try:
            line = read_line(PROMPT)
            if line is None:
                break
            turn = splits.normalized_prompt(line, settings)
            interrupts = _run_command(session, turn) if turn.startswith("/") else _take_turn(session, turn)
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts < MAX_INTERRUPTS:
                _note("\nTo end the chat, press Ctrl-C again or Ctrl-D, or type /quit.")
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            _note(str(error))  # in a terminal, the conversation continues


def read_line(prompt: str) -> str | None:
    """Read a line of standard input.

    Args:
        prompt: text to show before the line if standard input is a terminal.

    Returns:
        The line without its end; None at the end of the input.

    Raises:
        UserError: if the line is not UTF-8.
    """
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        message = f"standard input: not UTF-8 at byte {error.start} of a line; convert it to UTF-8 first"
        raise UserError(message) from error


def _run_command(session: ChatSession, line: str) -> int:
    """Execute a command and return the number of interrupts meanwhile; ``/quit`` returns ``MAX_INTERRUPTS``."""
    match line.split():
        case ["/quit"]:
            return MAX_INTERRUPTS
        case ["/again"] if session.previous is not None:
            return _show_answer(session, session.answer_again)
        case ["/again"]:
            _note("There is no turn to answer again.")
        case ["/forget"]:
            session.forget()
            _note("The conversation starts again.")
        case ["/seed", number]:
            _set_seed(session, number)
        case ["/help"]:
            _note(HELP)
        case _:
            _note(f"{line}: unknown command; /help lists the commands.")
    return 0


def _set_seed(session: ChatSession, number: str) -> None:
    """Set the seed of the next answer; keep it if the number is invalid."""
    try:
        session.seed = numerals.parse_seed(number)
    except ValueError as error:
        _note(f"/seed: {error}")


def _take_turn(session: ChatSession, turn: str) -> int:
    """Answer a turn. An empty turn continues a text, but a run on pairs ignores it, because it is not a source."""
    if session.model.is_paired and not turn.strip():
        return 0
    return _show_answer(session, partial(session.answer, turn))


def _show_answer(session: ChatSession, answer: Answer) -> int:
    """Generate an answer and show it as it grows; return the number of interrupts meanwhile."""
    with _counted_interrupts() as interrupts:
        sample = answer(_write, lambda: interrupts() > 0)
    _write("\n")
    if sample.finish_reason == "stop" and not session.model.is_paired:
        _note("The text has ended. The next line starts a new text.")
    return interrupts()


@contextmanager
def _counted_interrupts() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C instead of raising KeyboardInterrupt, so that the tokens generated so far are kept."""
    count = 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1

    with signals.installed({signal.SIGINT: add}):
        yield lambda: count


def _write(text: str) -> None:
    """Write a part of an answer to standard output, in color if that is a terminal."""
    if sys.stdout.isatty():
        console.out.print(Text(text), style="cyan", end="", soft_wrap=True)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    """Write a note to standard error."""
    console.notes.print(f"[dim]{escape(text)}[/dim]")
