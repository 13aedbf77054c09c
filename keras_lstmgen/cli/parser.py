"""The parser of the command line, with error messages of one line that suggest a correction."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from keras_lstmgen import __version__
from keras_lstmgen.cli import options
from keras_lstmgen.config import recipe
from keras_lstmgen.utils.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs and their options."""
    description = "Train an LSTM text generator on your own text and deploy it."
    top = _Parser(prog="keras-lstmgen", allow_abbrev=False, description=description)
    top.add_argument("--version", action="version", version=__version__)
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="verb")
    verbs: dict[str, _Parser] = {}
    for verb, (summary, add_options) in options.VERBS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        part = subparsers.add_parser(
            verb, help=summary, description=description, formatter_class=_Help, allow_abbrev=False
        )
        if verb != "prepare":  # the only verb without a run
            part.add_argument(
                "--runs",
                type=Path,
                default=Path("saved_models"),
                metavar="FOLDER",
                help="folder that contains the runs",
            )
        add_options(part)
        verbs[verb] = part
        part.verbs = verbs
    return top


class _Parser(argparse.ArgumentParser):
    """A parser that reports each error in one line, as a UserError."""

    verbs: Mapping[str, "_Parser"] = {}  # the parsers of all verbs, to find the verb that has an option
    _words: Sequence[str] = ()  # the command line

    def error(self, message: str) -> NoReturn:
        """Raise UserError, where argparse would print its usage and exit."""
        raise UserError(f"{message}{self._hint(message)}; see '{self.prog} --help'")

    def _hint(self, message: str) -> str:
        """Return advice if the value of an option is missing because it begins with a minus sign, otherwise ""."""
        missing = re.fullmatch(r"argument (--\S+): expected (one|at least one) argument", message)
        if not missing or missing[1] not in self._words[:-1]:
            return ""
        value = self._words[self._words.index(missing[1]) + 1]
        if not value.startswith("-") or value in self._option_string_actions:
            return ""
        return f"; a value that begins with a minus sign is typed as {shlex.join([f'{missing[1]}={value}'])}"

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit after ``--help`` or ``--version``, once the text is written."""
        sys.stdout.flush()
        super().exit(status, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words; raise UserError for an unknown option or a superfluous word."""
        self._words = list(sys.argv[1:] if args is None else args)
        args, beam_options = _split_at_dashes(args) if self.get_default("beam") is not None else (args, [])
        known, unknown = super().parse_known_args(args, namespace)
        if beam_options:
            known.beam = beam_options
        if unknown and unknown[0].startswith("--"):
            option = unknown[0].partition("=")[0]
            raise UserError(f"there is no option '{option}'{self._suggestion(option)}")
        if unknown:
            raise UserError(f"{unknown[0]}: is one word too many; place such words together, before the options")
        return known, unknown

    def _suggestion(self, option: str) -> str:
        """Suggest an option that begins or ends with the word, a verb that has it, or the most similar option."""
        known = [name for name in self._option_string_actions if name.startswith("--") and name != "--help"]
        for matches in ("^" + re.escape(option), re.escape(f".{option.removeprefix('--')}") + "$"):
            if found := [name for name in known if re.search(matches, name)]:
                return f"; the nearest is '{recipe.nearest(option, found)}'"
        if any(option == f"--{action.dest}" for action in self._get_positional_actions()):
            return f"; give the {option.removeprefix('--')} without it"
        if verbs := [f"'{verb}'" for verb, parser in self.verbs.items() if option in parser._option_string_actions]:
            return f" here; it belongs to {' and '.join(filter(None, (', '.join(verbs[:-1]), verbs[-1])))}"
        return f"; the nearest is '{recipe.nearest(option, known)}'"


def _split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before and behind the first ``--``."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default of each option whose default is a number or a path."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shows_default = isinstance(action.default, int | float | Path) and not isinstance(action.default, bool)
        return super()._get_help_string(action) if shows_default else action.help
