"""The command line: eight verbs, and how each may end. ``--help`` never imports TensorFlow."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from keras_lstmgen import __version__, ending, environment, launching, memory, options, recipe, threads
from keras_lstmgen.errors import Terminated, UserError, visible


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0, or 2 with one line on standard error, or 130 after Ctrl-C, 143 after SIGTERM."""
    _use_utf8()
    try:
        with ending.heard():
            return _command(argv)
    except UserError as error:
        print(f"keras-lstmgen: {visible(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe left; what it wanted it has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written, wherever it is noticed
        print(visible(f"keras-lstmgen: {error.filename or 'writing'}: {error.strerror or error}"), file=sys.stderr)
        return 2
    except MemoryError:
        print("keras-lstmgen: not enough memory; give it a smaller text, model or batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Terminated as ended:
        print(f"keras-lstmgen: {ended}", file=sys.stderr)
        return 143
    return 0


def _command(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    environment.configure()
    if getattr(arguments, "workers", 1) > 1:
        return launching.launch(sys.argv[1:] if argv is None else argv, arguments.workers)
    threads.configure()
    memory.configure()
    with environment.without_matplotlib():
        from keras_lstmgen import commands  # TensorFlow comes with it, and --help does not wait for that

    getattr(commands, arguments.verb)(arguments)
    sys.stdout.flush()
    return 0


def _use_utf8() -> None:
    """Take and give texts in UTF-8, whatever the terminal says of itself: another encoding has not all characters."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        """Where argparse prints its usage and exits."""
        raise UserError(f"{message}; see '{self.prog} --help'")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing may be left over; of an option that there is not, the nearest is named."""
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
