"""What each verb can be told: its words and options, with their help. Every value of a recipe is one of them."""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from keras_lstmgen.config import effects, recipe
from keras_lstmgen.files import filenames
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import visible

PATHS = ("corpus.source", "corpus.validation")  # values of a recipe that name files


def _train(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "source",
        nargs="*",
        type=filenames.of_argument,
        help="a recipe (.toml), or texts: files, globs, folders, '-', URLs, or a folder that 'prepare' made; "
        "none: pydoc, Python's language reference",
    )
    part.add_argument(
        "--name", type=filenames.of_argument, help="name of the run; by default that of the recipe or text"
    )
    part.add_argument(
        "--resume", metavar="RUN", help="go on with a run (its name, or with a slash its path) from its last checkpoint"
    )
    _number(part, "--workers", 1, "share the rows of each batch out to N processes of this machine (docs/scale.md)")
    for name in recipe.recipe_fields():
        _knob(part, name)


def _prepare(part: argparse.ArgumentParser) -> None:
    part.set_defaults(beam=[])
    part.epilog = "What stands behind -- goes to Apache Beam: -- --direct_num_workers=4, or -- --runner=FlinkRunner"
    part.add_argument(
        "source", nargs="*", type=filenames.of_argument, help="a recipe (.toml), or texts, as for 'train'"
    )
    part.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder to make, or an address: gs://bucket/name"
    )
    for name in recipe.recipe_fields():
        if name.startswith(("corpus.", "tokenizer.")):
            _knob(part, name)


def _knob(part: argparse.ArgumentParser, name: str) -> None:
    """A value of a recipe as an option, by its dotted name."""
    kind, default, about = recipe.recipe_fields()[name]
    choices = f"; one of {', '.join(about['choices'])}" if about["choices"] else ""
    typed = (
        _number_or_auto(kind) if default == recipe.AUTO else filenames.of_argument if name in PATHS else _typed(kind)
    )
    part.add_argument(
        f"--{name}", dest=name, metavar=_metavar(kind), default=argparse.SUPPRESS,
        nargs="*" if get_args(kind) else None, type=typed,
        help=f"{about['about']}{choices} (default: {_said(default)})".replace("%", "%%"),
    )  # fmt: skip


def _said(default: Any) -> str:
    """A default as it is typed."""
    if default == recipe.AUTO:
        return recipe.AUTO_WORD
    words = " ".join(default) if isinstance(default, tuple) else str(default)
    return (words.lower() if isinstance(default, bool) else words) or "none"


def _metavar(kind: Any) -> str:
    return "WORD" if get_args(kind) or kind is str else {int: "N", float: "X", bool: "true|false"}[kind]


def _typed(kind: Any) -> Any:
    """What turns a word of the command line into the type of a recipe's value."""
    return _text if get_args(kind) or kind is str else {bool: _truth, int: _whole, float: _real}[kind]


def _text(word: str) -> str:
    """Return a word of the command line as text, which is UTF-8 whatever the locale."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"'{visible(word)}' is not UTF-8 at byte {error.start}; convert it") from error


def _number_or_auto(kind: Any) -> Any:
    return lambda word: word if word == recipe.AUTO_WORD else _typed(kind)(word)


def _checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the message of what reads a number, in place of one that repeats all of the word."""

    def typed(word: str) -> Any:
        try:
            return read(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


_whole, _real, _seed = _checked(numerals.parse_int), _checked(numerals.parse_float), _checked(numerals.parse_seed)


def _truth(word: str) -> bool:
    if word not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{numerals.shortened(word)}' is not true or false")
    return word == "true"


def _generate(part: argparse.ArgumentParser) -> None:
    _run(part)
    prompts = part.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", type=_text, default="", metavar="TEXT", help="text to go on from; none: the start symbol"
    )
    prompts.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="read the prompt from a file ('-': standard input), as the text of the run was read; a newline at its end "
        "is part of the prompt, in a run on pairs it ends the source, and in a run on lines it is dropped",
    )
    _number(part, "--n", 1, "texts, all in one batch; text k uses seed + k")
    _number(part, "--seed", 0, "64-bit seed; the same writes the same")
    _number(part, "--max-new-tokens", 300, "most tokens of a text")
    part.add_argument(
        "--stop",
        type=_text,
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given again",
    )
    prompts.add_argument(
        "--interactive",
        action="store_true",
        help="ask for prompts, one a line, until the end of input (Ctrl-D)",
    )
    part.add_argument("--output", type=Path, metavar="FILE", help="write the text to a file instead")
    part.add_argument(
        "--logprobs",
        type=_whole,
        metavar="K",
        help="print JSON instead, a line a token: its log-probability, and those of the K likeliest; none: off",
    )
    _options(part)
    _host_options(part)
    _search(part)


def _chat(part: argparse.ArgumentParser) -> None:
    _run(part)
    part.add_argument(
        "--memory",
        type=_whole,
        metavar="N",
        help="of a run on pairs: turns, of either side, that are read before the one to answer; "
        "none: as many as its corpus has",
    )
    _number(part, "--seed", 0, "64-bit seed; each answer takes the next")
    _number(part, "--max-new-tokens", 300, "most tokens of an answer")
    _options(part)


def _options(part: argparse.ArgumentParser) -> None:
    options = part.add_argument_group("how tokens are drawn (docs/contract.md)")
    _number(options, "--repetition-penalty", 1.0, "above 1: what was written becomes less likely")
    _number(options, "--temperature", 1.0, "below 1: safer, above 1: bolder, 0: always the likeliest")
    _number(options, "--top-k", 0, "keep the N likeliest tokens; 0: all")
    _number(options, "--top-p", 1.0, "keep the likeliest tokens that make up X of the probability; 1: all")
    _number(options, "--min-p", 0.0, "keep tokens of at least X times the largest probability; 0: all")


def _host_options(part: argparse.ArgumentParser) -> None:
    host = part.add_argument_group("what a text may not, or should less, hold (docs/generation.md)")
    _number(host, "--no-repeat-ngram", 0, "no N tokens of prompt and text come twice; 0: off")
    _number(host, "--presence-penalty", 0.0, "taken from the logit of each token that the text holds")
    _number(host, "--frequency-penalty", 0.0, "taken from it for each time that the text holds it")
    host.add_argument(
        "--logit-bias",
        type=_text,
        nargs="+",
        action="extend",
        default=[],
        metavar="TOKEN=X",
        help="added to the logit of a token, given as its tokenizer spells it or as #ID; -inf: never",
    )
    host.add_argument("--regex", type=_text, metavar="PATTERN", help="the text has to match, all of it")


def _search(part: argparse.ArgumentParser) -> None:
    search = part.add_argument_group("beam search instead of drawing (docs/generation.md)")
    _number(search, "--beams", 0, "search for the best texts, N at a time, of which the --n best are written; 0: draw")
    _number(search, "--length-penalty", 0.0, "above 0: longer texts score better; 0: a text scores what its tokens do")


def _evaluate(part: argparse.ArgumentParser) -> None:
    _run(part)
    part.add_argument(
        "text", nargs="*", type=filenames.of_argument, help="texts to measure on; none: what the run validates on"
    )
    _number(
        part, "--samples", 4, "texts (of pairs: answers to held-out sources) to write and look up in the training text"
    )
    _number(part, "--sample-tokens", effects.SAMPLE_TOKENS, "most tokens of each, and of answers")
    for knob in fields(recipe.Evaluate):
        _knob(part, f"evaluate.{knob.name}")
    part.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead of tables (it stands in the run as evaluation.json either way)",
    )


def _inspect(part: argparse.ArgumentParser) -> None:
    _run(part)
    part.add_argument("--prompt", required=True, type=_text, metavar="TEXT", help="text to watch the layer over")
    _number(part, "--max-new-tokens", 0, "tokens of the model's own to go on with")
    _number(part, "--seed", 0, "64-bit seed of these, as in generate")
    part.add_argument("--layer", type=_whole, metavar="N", help="layer to watch, 1 next to the input; none: the last")
    part.add_argument(
        "--cell",
        type=_whole,
        metavar="N",
        help="cell to colour the text by, from 0; none: the one that follows something readable best",
    )
    part.add_argument(
        "--text",
        nargs="+",
        type=filenames.of_argument,
        default=[],
        metavar="FILE",
        help="texts to look for such cells in, of a run on kinds one for each; none: what the run validates on",
    )
    part.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where pictures and page go; none: inspect/ in the run"
    )
    _options(part)


def _export(part: argparse.ArgumentParser) -> None:
    _run(part)
    knobs = {field.name: field for field in fields(recipe.Export)}
    part.add_argument(
        "--format",
        nargs="+",
        dest="formats",
        choices=knobs["formats"].metadata["choices"],
        help="artifacts to write; by default the recipe's",
    )
    for name in ("texts", "tokens"):
        about = f"{knobs[name].metadata['about']}; by default as the recipe says"
        part.add_argument(f"--{name}", type=_whole, metavar="N", help=about)


def _info(part: argparse.ArgumentParser) -> None:
    part.add_argument("run", nargs="?", help="name of a run, or with a slash its path; none: a list of all")


def _number(part: Any, name: str, default: float, about: str) -> None:
    """An option of a parser or a group that takes a number, whole if its default is."""
    kind = type(default)
    typed = _seed if name == "--seed" else _typed(kind)
    part.add_argument(name, type=typed, default=default, metavar=_metavar(kind), help=about)


def _run(part: argparse.ArgumentParser) -> None:
    part.add_argument("run", nargs="?", help="name of a run, or with a slash its path; none: the newest")


VERBS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "prepare": ("turn a corpus of any size into ids, on one machine or many", _prepare),
    "train": ("train a model on a text, or on a recipe's", _train),
    "generate": ("write with a trained model", _generate),
    "chat": ("take turns with a trained model: it keeps what was said", _chat),
    "evaluate": ("measure a model on held-out text, and what it copies", _evaluate),
    "inspect": ("draw what gates and cells do over a text, and find cells that can be read", _inspect),
    "export": ("write SavedModel, TFLite and ONNX, each proved to write as Keras does", _export),
    "info": ("say what a run is, or which runs there are", _info),
}
