"""Define the arguments and options of each verb. Every field of a recipe is an option of ``train``."""

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

PATHS = ("corpus.source", "corpus.validation")  # fields of a recipe that name files


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="*",
        type=filenames.of_argument,
        help="a recipe (.toml), or texts: files, globs, folders, '-' (standard input), URLs, or a folder written by "
        "'prepare'; default: pydoc, Python's language reference",
    )
    parser.add_argument(
        "--name", type=filenames.of_argument, help="name of the run; default: the name of the recipe or text"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the training of a run from its last checkpoint; give its name, or its path with a slash",
    )
    _add_number(
        parser, "--workers", 1, "distribute the rows of each batch over N processes on this machine (docs/scale.md)"
    )
    for name in recipe.recipe_fields():
        _recipe_field(parser, name)


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(beam=[])
    parser.epilog = "Options after -- are passed to Apache Beam: -- --direct_num_workers=4, or -- --runner=FlinkRunner"
    parser.add_argument(
        "source", nargs="*", type=filenames.of_argument, help="a recipe (.toml) or texts, as for 'train'"
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder to create, or an address such as gs://bucket/name"
    )
    for name in recipe.recipe_fields():
        if name.startswith(("corpus.", "tokenizer.")):
            _recipe_field(parser, name)


def _recipe_field(parser: argparse.ArgumentParser, name: str) -> None:
    """Add a field of the recipe as an option, by its dotted name."""
    kind, default, about = recipe.recipe_fields()[name]
    choices = f"; one of {', '.join(about['choices'])}" if about["choices"] else ""
    parse = _or_auto(kind) if default == recipe.AUTO else filenames.of_argument if name in PATHS else _parser_of(kind)
    parser.add_argument(
        f"--{name}", dest=name, metavar=_metavar(kind), default=argparse.SUPPRESS,
        nargs="*" if get_args(kind) else None, type=parse,
        help=f"{about['about']}{choices} (default: {_format_default(default)})".replace("%", "%%"),
    )  # fmt: skip


def _format_default(default: Any) -> str:
    """Return a default as it is typed on the command line."""
    if default == recipe.AUTO:
        return recipe.AUTO_WORD
    words = " ".join(default) if isinstance(default, tuple) else str(default)
    return (words.lower() if isinstance(default, bool) else words) or "none"


def _metavar(kind: Any) -> str:
    return "WORD" if get_args(kind) or kind is str else {int: "N", float: "X", bool: "true|false"}[kind]


def _parser_of(kind: Any) -> Any:
    """Return a function that converts a word of the command line to the type of a field."""
    return (
        _parse_text
        if get_args(kind) or kind is str
        else {bool: _parse_truth, int: _parse_whole, float: _parse_real}[kind]
    )


def _parse_text(word: str) -> str:
    """Return a word of the command line as text; it is read as UTF-8 in every locale."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"'{visible(word)}' is not UTF-8 at byte {error.start}; convert it") from error


def _or_auto(kind: Any) -> Any:
    return lambda word: word if word == recipe.AUTO_WORD else _parser_of(kind)(word)


def _with_own_message(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the message of ``read``; its own message would repeat a word of any length."""

    def parse(word: str) -> Any:
        try:
            return read(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


_parse_whole = _with_own_message(numerals.parse_int)
_parse_real = _with_own_message(numerals.parse_float)
_parse_seed = _with_own_message(numerals.parse_seed)


def _parse_truth(word: str) -> bool:
    if word not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{numerals.shortened(word)}' is not true or false")
    return word == "true"


def _generate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", type=_parse_text, default="", metavar="TEXT", help="text to continue; default: the start symbol"
    )
    prompts.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="read the prompt from a file ('-': standard input), normalized like the training text. A newline at its "
        "end belongs to the prompt; for a run on pairs it ends the source, and for a run on lines it is removed",
    )
    _add_number(parser, "--n", 1, "number of texts, generated in one batch; text k uses seed + k")
    _add_number(parser, "--seed", 0, "64-bit seed; equal seeds give equal texts")
    _add_number(parser, "--max-new-tokens", 300, "maximum number of tokens per text")
    parser.add_argument(
        "--stop",
        type=_parse_text,
        action="append",
        default=[],
        metavar="TEXT",
        help="stop before this text; may be given several times",
    )
    prompts.add_argument(
        "--interactive",
        action="store_true",
        help="read prompts from the keyboard, one per line, until the end of input (Ctrl-D)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the text to a file")
    parser.add_argument(
        "--logprobs",
        type=_parse_whole,
        metavar="K",
        help="print JSON, one line per token: its log-probability, and the K most probable tokens; default: off",
    )
    _add_sampling(parser)
    _add_constraints(parser)
    _add_beam_search(parser)


def _chat(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--memory",
        type=_parse_whole,
        metavar="N",
        help="for a run on pairs: number of earlier turns, of both sides, that the model reads before it answers; "
        "default: as many as in its corpus",
    )
    _add_number(parser, "--seed", 0, "64-bit seed of the first answer; each further answer uses the next one")
    _add_number(parser, "--max-new-tokens", 300, "maximum number of tokens per answer")
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("sampling (docs/contract.md)")
    _add_number(options, "--repetition-penalty", 1.0, "above 1: tokens that have occurred become less probable")
    _add_number(options, "--temperature", 1.0, "below 1: more conservative; above 1: more varied; 0: greedy")
    _add_number(options, "--top-k", 0, "sample from the N most probable tokens; 0: all")
    _add_number(options, "--top-p", 1.0, "sample from the smallest set of tokens with a total probability of X; 1: all")
    _add_number(options, "--min-p", 0.0, "sample from tokens with at least X times the largest probability; 0: all")


def _add_constraints(parser: argparse.ArgumentParser) -> None:
    host = parser.add_argument_group("constraints and penalties (docs/generation.md)")
    _add_number(host, "--no-repeat-ngram", 0, "no sequence of N tokens occurs twice in prompt and text; 0: off")
    _add_number(host, "--presence-penalty", 0.0, "subtracted from the logit of each token that the text contains")
    _add_number(
        host, "--frequency-penalty", 0.0, "subtracted from the logit of a token for each of its occurrences in the text"
    )
    host.add_argument(
        "--logit-bias",
        type=_parse_text,
        nargs="+",
        action="extend",
        default=[],
        metavar="TOKEN=X",
        help="added to the logit of a token, given as the tokenizer spells it or as #ID; -inf: never sample it",
    )
    host.add_argument(
        "--regex", type=_parse_text, metavar="PATTERN", help="regular expression that the whole text must match"
    )


def _add_beam_search(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("beam search (docs/generation.md)")
    _add_number(search, "--beams", 0, "number of beams; the --n best texts are printed; 0: sample")
    _add_number(
        search, "--length-penalty", 0.0, "above 0: longer texts score better; 0: the score is the sum over the tokens"
    )


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "text",
        nargs="*",
        type=filenames.of_argument,
        help="texts to evaluate on; default: the validation text of the run",
    )
    _add_number(
        parser,
        "--samples",
        4,
        "number of texts to generate and to search for in the training text; for pairs, answers to held-out sources",
    )
    _add_number(
        parser, "--sample-tokens", effects.SAMPLE_TOKENS, "maximum number of tokens of each sample and each answer"
    )
    for setting in fields(recipe.Evaluate):
        _recipe_field(parser, f"evaluate.{setting.name}")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead of tables (evaluation.json in the run has the same content)",
    )


def _inspect(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--prompt",
        required=True,
        type=_parse_text,
        metavar="TEXT",
        help="text that the model reads while the layer is recorded",
    )
    _add_number(parser, "--max-new-tokens", 0, "number of tokens to generate after the prompt")
    _add_number(parser, "--seed", 0, "64-bit seed of the generated tokens, as in 'generate'")
    parser.add_argument(
        "--layer", type=_parse_whole, metavar="N", help="layer to record; 1 is next to the input; default: the last"
    )
    parser.add_argument(
        "--cell",
        type=_parse_whole,
        metavar="N",
        help="cell that colours the text, from 0; default: the cell that follows a readable feature best",
    )
    parser.add_argument(
        "--text",
        nargs="+",
        type=filenames.of_argument,
        default=[],
        metavar="FILE",
        help="texts in which to search for such cells; for a run with labels, one per label; default: the validation "
        "text of the run",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder for pictures and page; default: inspect/ in the run"
    )
    _add_sampling(parser)


def _export(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    fields_by_name = {field.name: field for field in fields(recipe.Export)}
    parser.add_argument(
        "--format",
        nargs="+",
        dest="formats",
        choices=fields_by_name["formats"].metadata["choices"],
        help="artifacts to write; default: those of the recipe",
    )
    for name in ("texts", "tokens"):
        about = f"{fields_by_name[name].metadata['about']}; default: the value in the recipe"
        parser.add_argument(f"--{name}", type=_parse_whole, metavar="N", help=about)


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="name of a run, or its path with a slash; default: list all runs")


def _add_number(parser: Any, name: str, default: float, about: str) -> None:
    """Add an option for a number to a parser or a group; its type is that of the default."""
    kind = type(default)
    parse = _parse_seed if name == "--seed" else _parser_of(kind)
    parser.add_argument(name, type=parse, default=default, metavar=_metavar(kind), help=about)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="name of a run, or its path with a slash; default: the newest run")


VERBS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "prepare": ("tokenize a large corpus in parallel, on one machine or several", _prepare),
    "train": ("train a model on a text or with a recipe", _train),
    "generate": ("generate text with a trained model", _generate),
    "chat": ("chat with a trained model, which remembers the conversation", _chat),
    "evaluate": ("measure a model on held-out text, and how much it copies", _evaluate),
    "inspect": ("plot gates and cells over a text, and find cells that follow a readable feature", _inspect),
    "export": (
        "write SavedModel, TFLite, ONNX or a web page, and verify each against Keras",
        _export,
    ),
    "info": ("describe a run, or list all runs", _info),
}
