"""The command line: eight verbs, and how each may end. ``--help`` never imports TensorFlow."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from keras_lstmgen import __version__
from keras_lstmgen.cli import options
from keras_lstmgen.config import recipe
from keras_lstmgen.distribution import launcher
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system import cpu, environment, malloc, signals, standard_streams
from keras_lstmgen.utils.errors import ReaderLeft, Terminated, UserError, visible

PRINTING = ("generate", "chat", "info")  # end when the reader of their output leaves; the others continue


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status: 0, or 2 after one line on standard error.

    The status is 130 after Ctrl-C, and 143 after SIGTERM.
    """
    with standard_streams.streams() as output:
        return _status(argv, output)


def _status(argv: Sequence[str] | None, output: standard_streams.Output) -> int:
    try:
        with signals.raise_terminated():
            return _command(argv, output)
    except UserError as error:
        return _failed(str(error))
    except ReaderLeft:
        return 0
    except OSError as error:  # a full disk, a folder that may not be written, wherever it is noticed
        return _failed(f"{error.filename or 'reading or writing'}: {error.strerror or error}")
    except MemoryError:
        return _failed("not enough memory; give it a smaller text, model or batch")
    except KeyboardInterrupt:
        return 130
    except Terminated as ended:
        return _failed(str(ended), 143)


def _failed(message: str, status: int = 2) -> int:
    """Print one line that says why the command failed, and return its exit status."""
    print(f"keras-lstmgen: {visible(message)}", file=sys.stderr)
    return status


def _command(argv: Sequence[str] | None, output: standard_streams.Output) -> int:
    arguments = parser().parse_args(argv)
    output.goes_on = arguments.verb not in PRINTING
    status = _verb(arguments, sys.argv[1:] if argv is None else argv)
    sys.stdout.flush()
    output.check()
    return status


def _verb(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    environment.configure()
    if getattr(arguments, "workers", 1) > 1:
        return launcher.launch(words, arguments.workers)
    cpu.configure()
    malloc.configure()
    with environment.without_matplotlib():
        from keras_lstmgen.cli import commands  # imports TensorFlow, which --help does not wait for
        from keras_lstmgen.cli.console_reporter import ConsoleReporter

    with reporter.use(ConsoleReporter()):
        getattr(commands, arguments.verb)(arguments)
    return 0


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    _words: Sequence[str] = ()  # as they were typed

    def error(self, message: str) -> NoReturn:
        """Where argparse prints its usage and exits."""
        raise UserError(f"{message}{self._hint(message)}; see '{self.prog} --help'")

    def _hint(self, message: str) -> str:
        """Return advice if the value of an option is missing because it begins with a minus sign, otherwise ""."""
        missing = re.fullmatch(r"argument (--\S+): expected (one|at least one) argument", message)
        if not missing or missing[1] not in self._words[:-1]:
            return ""
        value = self._words[self._words.index(missing[1]) + 1]
        if not value.startswith("-") or value in self._option_string_actions:
            return ""
        return f"; a value that begins with a minus sign is given as {shlex.join([f'{missing[1]}={value}'])}"

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit after ``--help`` or ``--version``, once the text is written."""
        sys.stdout.flush()
        super().exit(status, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing may be left over; of an option that there is not, the nearest is named."""
        self._words = list(sys.argv[1:] if args is None else args)
        args, others = _before_and_behind_dashes(args) if self.get_default("beam") is not None else (args, [])
        known, unknown = super().parse_known_args(args, namespace)
        if others:
            known.beam = others
        if unknown and unknown[0].startswith("--"):
            option = unknown[0].partition("=")[0]
            near = recipe.nearest(option, list(self._option_string_actions))
            raise UserError(f"there is no option '{option}'; the nearest is '{near}'")
        if unknown:
            raise UserError(f"{unknown[0]}: is one word too many; such words stand together, before the options")
        return known, unknown


def _before_and_behind_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = _Parser(prog="keras-lstmgen", allow_abbrev=False, description="From a text of yours to an LSTM that writes.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb, (about, add_options) in options.VERBS.items():
        description = f"{about[0].upper()}{about[1:]}."
        part = verbs.add_parser(verb, help=about, description=description, formatter_class=_Help, allow_abbrev=False)
        if verb != "prepare":  # which makes no run
            part.add_argument(
                "--runs", type=Path, default=Path("saved_models"), metavar="FOLDER", help="where runs are kept"
            )
        add_options(part)
    return top


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of each option, where it has one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = isinstance(action.default, int | float | Path) and not isinstance(action.default, bool)
        return super()._get_help_string(action) if told else action.help
