"""Define the arguments and options of each verb. ``train`` has an option for each field of a recipe."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from keras_lstmgen.cli import option_types
from keras_lstmgen.cli.option_types import add_number, parse_text, parse_whole
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.files import filenames

PATHS = ("corpus.source", "corpus.validation", "training.init_from")  # recipe fields whose values are file names
SHORT_NAMES = {"training.init_from": ["--init-from"]}  # second names of the options of recipe fields


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="*",
        type=filenames.of_argument,
        help="a recipe (.toml or the name of a packaged one), or texts: files, globs, folders, '-' (standard input), "
        "URLs, or a folder written by 'prepare'; default: pydoc, Python's language reference",
    )
    parser.add_argument(
        "--name", type=filenames.of_argument, help="name of the run; default: the name of the recipe or text"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the training of a run from its last checkpoint; give its name, or its path with a slash",
    )
    add_number(
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
    """Add an option for a recipe field.

    Args:
        parser: the parser of a verb.
        name: dotted name of the field, such as ``"model.units"``.
    """
    kind, default, about = recipe.recipe_fields()[name]
    choices = f"; one of {', '.join(about['choices'])}" if about["choices"] else ""
    parse = filenames.of_argument if name in PATHS else option_types.parser_of(kind)
    if default == recipe.AUTO:
        parse = option_types.or_auto(kind)
    parser.add_argument(
        *SHORT_NAMES.get(name, ()), f"--{name}",
        dest=name, metavar=option_types.metavar(kind), default=argparse.SUPPRESS,
        nargs="*" if get_args(kind) else None, type=parse,
        help=f"{about['about']}{choices} (default: {_format_default(default)})".replace("%", "%%"),
    )  # fmt: skip


def _format_default(default: Any) -> str:
    """Return a default value in the form that a user types on the command line."""
    if default == recipe.AUTO:
        return recipe.AUTO_WORD
    words = " ".join(default) if isinstance(default, tuple) else str(default)
    return (words.lower() if isinstance(default, bool) else words) or "none"


def _generate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", type=parse_text, default="", metavar="TEXT", help="text to continue; default: the start symbol"
    )
    prompts.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="read the prompt from a file ('-': standard input); the prompt is normalized like the training text. A "
        "newline at the end of the file is part of the prompt. In a run on pairs, it ends the source. In a run on "
        "lines, it is removed",
    )
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="generate a text for each line of a file ('-': standard input), in batches, and print a line of JSON for "
        "each text (docs/generation.md). A line is a prompt, or a JSON object with the key 'prompt' and options by "
        'name, such as {"prompt": "It was", "top_k": 5}',
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON for each text, with its tokens and its finish reason"
    )
    add_number(parser, "--n", 1, "number of texts, generated in one batch; text k uses seed + k")
    add_number(parser, "--seed", 0, "64-bit seed; equal seeds give equal texts")
    add_number(parser, "--max-new-tokens", 300, "maximum number of tokens per text")
    parser.add_argument(
        "--stop",
        type=parse_text,
        action="append",
        default=[],
        metavar="TEXT",
        help="end a text before the first occurrence of TEXT; may be given several times",
    )
    about = "read prompts from the keyboard, one per line, until the end of input (Ctrl-D)"
    prompts.add_argument("--interactive", action="store_true", help=about)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the text to a file")
    parser.add_argument(
        "--logprobs",
        type=parse_whole,
        metavar="K",
        help="print one line of JSON per token, with its log-probability and the K most probable tokens; default: off",
    )
    _add_sampling(parser)
    _add_constraints(parser)
    _add_beam_search(parser)


def _chat(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--memory",
        type=parse_whole,
        metavar="N",
        help="number of earlier turns (of the user and of the model) that the model reads before it answers, for a run "
        "on pairs; default: the number of turns in the dialogues of its corpus",
    )
    add_number(parser, "--seed", 0, "64-bit seed of the first answer; the seed increases by 1 for each further answer")
    add_number(parser, "--max-new-tokens", 300, "maximum number of tokens per answer")
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("sampling (docs/contract.md)")
    add_number(
        options, "--repetition-penalty", 1.0, "above 1: tokens that have already occurred become less probable; 1: off"
    )
    add_number(options, "--temperature", 1.0, "below 1: more conservative; above 1: more varied; 0: greedy")
    add_number(options, "--top-k", 0, "sample from the N most probable tokens; 0: all")
    add_number(options, "--top-p", 1.0, "sample from the smallest set of tokens with a total probability of X; 1: all")
    add_number(options, "--min-p", 0.0, "sample from the tokens with at least X times the largest probability; 0: all")


def _add_constraints(parser: argparse.ArgumentParser) -> None:
    host = parser.add_argument_group("constraints and penalties (docs/generation.md)")
    add_number(
        host,
        "--min-new-tokens",
        0,
        "minimum number of tokens per text, before which the end token is forbidden; 0: off",
    )
    add_number(host, "--no-repeat-ngram", 0, "no sequence of N tokens occurs twice in prompt and text; 0: off")
    add_number(
        host, "--presence-penalty", 0.0, "number to subtract once from the logit of each token that the text contains"
    )
    frequencies = "number to subtract from the logit of a token for each of its occurrences in the text"
    add_number(host, "--frequency-penalty", 0.0, frequencies)
    host.add_argument(
        "--logit-bias",
        type=parse_text,
        nargs="+",
        action="extend",
        default=[],
        metavar="TOKEN=X",
        help="number to add to the logit of a token; TOKEN is a token as the tokenizer writes it, or #ID; with -inf, "
        "the token is never sampled",
    )
    host.add_argument(
        "--regex", type=parse_text, metavar="PATTERN", help="regular expression that the whole text must match"
    )


def _add_beam_search(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("beam search (docs/generation.md)")
    add_number(search, "--beams", 0, "number of beams; prints the --n best texts; 0: sample without a beam search")
    lengths = "above 0: longer texts get better scores; 0: the score is the sum of the log-probabilities of the tokens"
    add_number(search, "--length-penalty", 0.0, lengths)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "text",
        nargs="*",
        type=filenames.of_argument,
        help="texts to evaluate on; default: the validation text of the run",
    )
    add_number(
        parser,
        "--samples",
        4,
        "number of texts to generate and to compare with the training text; for a run on pairs, number of answers to "
        "held-out sources",
    )
    add_number(
        parser, "--sample-tokens", effects.SAMPLE_TOKENS, "maximum number of tokens of each sample and each answer"
    )
    for setting in fields(recipe.Evaluate):
        _recipe_field(parser, f"evaluate.{setting.name}")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead of tables; the file evaluation.json in the run has the same content",
    )


def _inspect(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--prompt",
        required=True,
        type=parse_text,
        metavar="TEXT",
        help="text that the model reads while the activations of the layer are recorded",
    )
    add_number(parser, "--max-new-tokens", 0, "number of tokens to generate after the prompt")
    add_number(parser, "--seed", 0, "64-bit seed of the generated tokens, as in 'generate'")
    layers = "number of the LSTM layer to record, from 1 (the first after the embedding); default: the last layer"
    parser.add_argument("--layer", type=parse_whole, metavar="N", help=layers)
    parser.add_argument(
        "--cell",
        type=parse_whole,
        metavar="N",
        help="number of the cell whose values colour the text, from 0; default: the cell with the best score for a "
        "readable feature",
    )
    parser.add_argument(
        "--text",
        nargs="+",
        type=filenames.of_argument,
        default=[],
        metavar="FILE",
        help="texts on which to search for cells that follow a readable feature; for a run with labels, one text per "
        "label; default: the validation text of the run",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for the pictures and the HTML page; default: inspect/ in the folder of the run",
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
        help="formats of the artifacts to write; default: the formats in the recipe",
    )
    for name in ("texts", "tokens"):
        about = f"{fields_by_name[name].metadata['about']}; default: the value in the recipe"
        parser.add_argument(f"--{name}", type=parse_whole, metavar="N", help=about)


def _info(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("run", nargs="?", help="name of a run, or its path with a slash; default: list all runs")
    what.add_argument("--system", action="store_true", help="describe this machine and the kernel that trains on it")


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the name or path of a run."""
    parser.add_argument("run", nargs="?", help="name of a run, or its path with a slash; default: the newest run")


def _clients(parser: argparse.ArgumentParser) -> None:
    about = "folder in which the subfolder 'export' with the clients is created"
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help=about)


VERBS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "prepare": ("tokenize a large corpus in parallel, on one machine or several", _prepare),
    "train": ("train a model on a text or with a recipe", _train),
    "generate": ("generate text with a trained model", _generate),
    "chat": ("chat with a trained model, which remembers the conversation", _chat),
    "evaluate": ("measure the loss of a model on held-out text, and how much training text it copies", _evaluate),
    "inspect": ("plot gates and cells of a layer over a text, and find cells that follow a readable feature", _inspect),
    "export": ("write SavedModel, TFLite, ONNX or a web page, and verify each against Keras", _export),
    "clients": ("copy the programs that run an artifact without this package", _clients),
    "info": ("describe a run or this machine, or list all runs", _info),
}
