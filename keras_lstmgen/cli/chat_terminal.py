"""Run a chat in the terminal: read lines and commands, show the answers, and handle Ctrl-C."""

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
MAX_INTERRUPTS = 2  # number of Ctrl-C presses, with no line between them, after which the chat ends
HELP = """\
/again     generate another answer to the last turn
/forget    start a new conversation
/seed N    set the seed of the next answer
/quit      end the chat (Ctrl-D, or pressing Ctrl-C twice, also ends it; Ctrl-C once interrupts an answer)
/help      show this list"""
# A function that generates an answer. Its arguments are a function that receives each part of the text, and a function
# that returns whether to stop.
Answer = Callable[[Callable[[str], None], Callable[[], bool]], Sample]


def converse(session: ChatSession) -> None:
    """Answer each line of standard input, until the input ends or the user types ``/quit``.

    Answers are written to standard output. All other messages are written to standard error.

    Args:
        session: the conversation.

    Raises:
        UserError: standard input is not a terminal, and a line cannot be read or answered.
    """
    import readline  # noqa: F401  # with this import, ``input`` lets the user edit a line

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
            _note(str(error))  # the conversation continues, because the user can type another line


def read_line(prompt: str) -> str | None:
    """Read a line from standard input.

    Args:
        prompt: text that is shown before the line if standard input is a terminal.

    Returns:
        The line without its line ending; None at the end of the input.

    Raises:
        UserError: the line is not UTF-8.
    """
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        message = f"standard input: not UTF-8 at byte {error.start} of a line; convert it to UTF-8 first"
        raise UserError(message) from error


def _run_command(session: ChatSession, line: str) -> int:
    """Execute a command such as ``/again``.

    Returns:
        The number of times that the user pressed Ctrl-C during the command; ``MAX_INTERRUPTS`` for ``/quit``.
    """
    match line.split():
        case ["/quit"]:
            return MAX_INTERRUPTS
        case ["/again"] if session.previous is not None:
            return _show_answer(session, session.answer_again)
        case ["/again"]:
            _note("There is no turn to answer again.")
        case ["/forget"]:
            session.forget()
            _note("A new conversation starts.")
        case ["/seed", number]:
            _set_seed(session, number)
        case ["/help"]:
            _note(HELP)
        case _:
            _note(f"{line}: unknown command; /help lists the commands.")
    return 0


def _set_seed(session: ChatSession, number: str) -> None:
    """Set the seed of the next answer. If the number is invalid, print an error and keep the old seed."""
    try:
        session.seed = numerals.parse_seed(number)
    except ValueError as error:
        _note(f"/seed: {error}")


def _take_turn(session: ChatSession, turn: str) -> int:
    """Answer a line of the user.

    An empty line continues the text. If the model was trained on pairs, an empty line is ignored, because the model
    needs a source.

    Returns:
        The number of times that the user pressed Ctrl-C during the answer.
    """
    if session.model.is_paired and not turn.strip():
        return 0
    return _show_answer(session, partial(session.answer, turn))


def _show_answer(session: ChatSession, answer: Answer) -> int:
    """Generate an answer, and show each part as soon as it is generated.

    Returns:
        The number of times that the user pressed Ctrl-C during the answer.
    """
    with _counted_interrupts() as interrupts:
        sample = answer(_write, lambda: interrupts() > 0)
    _write("\n")
    if sample.finish_reason == "stop" and not session.model.is_paired:
        _note("The text has ended. The next line starts a new text.")
    return interrupts()


@contextmanager
def _counted_interrupts() -> Iterator[Callable[[], int]]:
    """Count each Ctrl-C inside the context instead of raising KeyboardInterrupt.

    Because no exception is raised, the answer can end with the tokens that were generated before Ctrl-C.

    Yields:
        A function that returns the number of times that the user has pressed Ctrl-C.
    """
    count = 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1

    with signals.installed({signal.SIGINT: add}):
        yield lambda: count


def _write(text: str) -> None:
    """Write a part of an answer to standard output, in color if standard output is a terminal."""
    if sys.stdout.isatty():
        console.out.print(Text(text), style="cyan", end="", soft_wrap=True)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    """Write a message about the chat to standard error."""
    console.notes.print(f"[dim]{escape(text)}[/dim]")
