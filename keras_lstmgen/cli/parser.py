"""Parse the command line. Each error message is one line and suggests a correction."""

import argparse
import difflib
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

WITHOUT_RUNS = ("prepare", "clients")  # verbs that do not use a run


def build_parser() -> argparse.ArgumentParser:
    """Return the command line parser with all verbs and their options."""
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
        if verb not in WITHOUT_RUNS:
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
    """A parser that raises a UserError with a message of one line for each error."""

    verbs: Mapping[str, "_Parser"] = {}  # the parsers of all verbs by name; ``_suggestion`` searches their options
    _words: Sequence[str] = ()  # the command line arguments that are being parsed

    def error(self, message: str) -> NoReturn:
        """Raise UserError. The method of the base class would print the usage and exit."""
        raise UserError(f"{message}{self._hint(message)}; see '{self.prog} --help'")

    def _hint(self, message: str) -> str:
        """If argparse reports that an option has no value, return advice for the user.

        A possible cause is a value such as ``-x`` in ``--stop -x``, because argparse accepts no value that begins with
        a minus sign.

        Returns:
            The advice; "" if argparse reports another problem or the problem has another cause.
        """
        missing = re.fullmatch(r"argument (--\S+): expected (one|at least one) argument", message)
        if not missing or missing[1] not in self._words[:-1]:
            return ""
        value = self._words[self._words.index(missing[1]) + 1]
        if not value.startswith("-") or value in self._option_string_actions:
            return ""
        return f"; a value that begins with a minus sign is typed as {shlex.join([f'{missing[1]}={value}'])}"

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Flush standard output, and exit after ``--help`` or ``--version``."""
        sys.stdout.flush()
        super().exit(status, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse command line arguments; raise UserError for unknown options and for too many arguments."""
        self._words = list(sys.argv[1:] if args is None else args)
        args, beam_options = _split_at_dashes(args) if self.get_default("beam") is not None else (args, [])
        known, unknown = super().parse_known_args(args, namespace)
        if beam_options:
            known.beam = beam_options
        if unknown and unknown[0].startswith("--"):
            option = unknown[0].partition("=")[0]
            raise UserError(f"there is no option '{option}'{self._suggestion(option)}")
        if unknown:
            raise UserError(
                f"{unknown[0]}: unexpected argument; place all arguments without a name together, before the options"
            )
        return known, unknown

    def _suggestion(self, option: str) -> str:
        """Return a suggestion for an unknown option.

        The function tries in turn: an option that begins or ends with the given word, the positional argument with
        this name, the verbs that have an option that begins with the given word, and the most similar option.
        """
        known = [name for name in self._option_string_actions if name.startswith("--") and name != "--help"]
        for matches in ("^" + re.escape(option), re.escape(f".{option.removeprefix('--')}") + "$"):
            if found := [name for name in known if re.search(matches, name)]:
                return f"; the nearest is '{recipe.nearest(option, found)}'"
        if any(option == f"--{action.dest}" for action in self._get_positional_actions()):
            return f"; give the {option.removeprefix('--')} without '{option}' before it"
        if owners := self._owners(option):
            return owners
        similar = difflib.get_close_matches(option, known, 1)
        return f"; the nearest is '{similar[0]}'" if similar else f"; see '{self.prog} --help'"

    def _owners(self, option: str) -> str:
        """Return a suggestion that names the verbs with an option that begins with ``option``; "" if there are none."""
        options = {verb: list(parser._option_string_actions) for verb, parser in self.verbs.items()}
        found = [name for names in options.values() for name in names if name.startswith(option)]
        if not found:
            return ""
        name = recipe.nearest(option, found)
        verbs = [f"'{verb}'" for verb, names in options.items() if name in names]
        subject = "it" if name == option else f"'{name}'"
        return f" here; {subject} belongs to {' and '.join(filter(None, (', '.join(verbs[:-1]), verbs[-1])))}"


def _split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first ``--``, and the arguments after it."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """A help formatter that shows the default of an option only if it is a number or a path."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shows_default = isinstance(action.default, int | float | Path) and not isinstance(action.default, bool)
        return super()._get_help_string(action) if shows_default else action.help
