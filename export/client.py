"""Command line that all Python clients share; each client passes the function that opens its artifact."""

import argparse
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

import numpy as np

from export import beam
from export.contract import Metadata, Options, Step, finish_reason, generate, prompt_ids, read_metadata
from export.tokenizer import Tokenizer, decode, decode_stream, encode, read

# Takes the path of an artifact, and returns the step, the metadata as JSON, and the SentencePiece model.
Load = Callable[[Path], tuple[Step, bytes, bytes]]

# A step spends most of its time reading weights, so more threads than a few do not make it faster.
MAX_THREADS = 4
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # CPU quota of a container: "max" or microseconds, and period in microseconds


def cores(quota: Path = CPU_MAX) -> int:
    """Return the number of cores that this process may use, according to its CPU affinity and its container quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(count, math.ceil(int(most) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return count


THREADS = min(cores(), MAX_THREADS)

DIGITS = 20  # number of digits of the largest 64-bit number

HELP = {
    "temperature": "divide the logits by this number; 0 always selects the most likely token",
    "top_k": "sample only from the k most likely tokens; 0: from all",
    "top_p": "sample only from the most likely tokens whose probabilities add up to this number; 1: from all",
    "min_p": "sample only from tokens with at least this share of the largest probability; 0: from all",
    "repetition_penalty": "above 1, tokens that are already in the text become less likely; 1: off",
}


@contextmanager
def silence() -> Iterator[None]:
    """Discard everything that is written to standard error inside the context, including output of native code."""
    _open_closed()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@dataclass(frozen=True)
class Model:
    """An opened artifact."""

    step: Step
    metadata: Metadata
    tokenizer: Tokenizer


def main(load: Load, artifact: str) -> int:
    """Generate the texts that the command line requests.

    Args:
        load: function that opens the artifact.
        artifact: description of the artifact for ``--help``.

    Returns:
        The exit status: 0, or 2 after an error message in one line on standard error.
    """
    return run("generate.py", lambda: _texts(load, artifact))


def run(name: str, program: Callable[[], None]) -> int:
    """Run a program and return its exit status.

    The status is 2 if the program raises ValueError or if its output cannot be written. The function then prints one
    line to standard error. Otherwise the status is 0, even if the reader of standard output closes the pipe early. The
    null device replaces standard streams that are closed when the program starts.
    """
    _open_closed()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # whatever the locale is
    try:
        program()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(1)
    except ValueError as error:
        say(f"{name}: {' '.join(str(error).split())}")
        return 2
    except OSError as error:
        _discard(1)
        say(f"{name}: {error.filename or 'standard output'}: {error.strerror or error}")
        return 2
    return 0


def say(text: str) -> None:
    """Print a line to standard error; ignore the error if it cannot be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(2)


def _open_closed() -> None:
    """Open the null device for each standard stream that is closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _discard(number: int) -> None:
    """Redirect a standard stream to the null device, so that Python can flush its buffer without an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _texts(load: Load, artifact: str) -> None:
    """Parse the command line, and generate the texts that it requests."""
    arguments = _arguments(artifact)
    options, searched = options_of(arguments), _searched(arguments)
    model = open_model(load, arguments.model)
    ids = prompt_ids(encode(model.tokenizer, arguments.prompt), model.metadata)
    if searched:
        _search(model, ids, searched, arguments)
    else:
        _write(model, ids, options, arguments)


class Parser(argparse.ArgumentParser):
    """Argument parser that raises ValueError with one line instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message."""
        raise ValueError(f"{message}; --help lists the options")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Flush standard output and exit; the parser calls this method after ``--help``."""
        sys.stdout.flush()
        super().exit(status, message)


def _arguments(artifact: str) -> argparse.Namespace:
    """Parse the command line."""
    parser = parser_of_texts(f"Generate text with {artifact}.")
    parser.add_argument("model", type=Path, help=artifact)
    parser.add_argument(
        "--beams",
        type=whole,
        default=0,
        help="use beam search with this number of beams; 0: sample instead",
    )
    parser.add_argument(
        "--length-penalty", type=real, default=0.0, help="for beam search: above 0, longer texts get better scores"
    )
    return parser.parse_args()


def _searched(arguments: argparse.Namespace) -> beam.Options | None:
    """Return the options of a beam search, or None for sampling; raise ValueError for conflicting options."""
    if not arguments.beams:
        if arguments.length_penalty:
            raise ValueError("length_penalty applies only to beam search: give beams too")
        return None
    options = beam.Options(arguments.beams, arguments.length_penalty)
    for field in fields(Options):
        if getattr(arguments, field.name) != field.default:
            raise ValueError(f"{field.name} does not apply to beam search: remove {field.name} or beams")
    if arguments.n > options.beams:
        raise ValueError(f"n is out of range: it must be at most the number of beams, {options.beams}")
    return options


def parser_of_texts(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all clients have: prompt, seeds, length and sampling options."""
    parser = Parser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--prompt", type=_utf8, default="", help="text to continue; without it, begin a new text")
    parser.add_argument("--seed", type=seed, default=0, help="64-bit number; the same seed gives the same text")
    parser.add_argument("--n", type=_count, default=1, help="number of texts, with the seeds seed, seed + 1, ...")
    parser.add_argument("--max-new-tokens", type=_count, default=200, help="largest number of tokens of each text")
    for field in fields(Options):
        name, read = "--" + field.name.replace("_", "-"), whole if type(field.default) is int else real
        parser.add_argument(name, type=read, default=field.default, help=HELP[field.name])
    return parser


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the sampling options of a command line; raise ValueError if one is out of range."""
    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})


def _utf8(text: str) -> str:
    """Return an argument unchanged; raise ArgumentTypeError if its bytes are not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return text


def whole(text: str) -> int:
    """Parse an integer that consists of ASCII digits."""
    if not re.fullmatch(r"[+-]?[0-9]+", text) or len(text.lstrip("+-0")) > DIGITS:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a whole number of at most {DIGITS} digits")
    return int(text)


def real(text: str) -> float:
    """Parse a number that consists of ASCII digits, or ``nan`` or ``inf``, which later checks reject."""
    if not re.fullmatch(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|nan)", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a number")
    return float(text)


def seed(text: str) -> int:
    """Parse a seed of at most 64 bits."""
    number = whole(text)
    if not -(2**63) <= number < 2**64:
        raise argparse.ArgumentTypeError(f"{number} is not a number of 64 bits")
    return number


def _count(text: str) -> int:
    """Parse an integer from 1 to 2^31 - 1."""
    number = whole(text)
    if not 1 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{number} is out of range: it must be 1 to {2**31 - 1}")
    return number


def open_model(load: Load, path: Path) -> Model:
    """Open an artifact; raise ValueError with its path if it is missing or damaged."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such model")
    try:
        step, json, tokenizer = load(path)
        model = Model(step, read_metadata(json), read(tokenizer))
        logits, _ = step(model.metadata.start_id, np.zeros(model.metadata.state_size, np.float32))
    except Exception as error:  # each runtime raises its own exceptions for damaged files
        raise ValueError(f"{path}: cannot be used: {error}") from error
    if not len(logits) == len(model.tokenizer.pieces) == model.metadata.vocab_size:
        raise ValueError(f"{path}: cannot be used: model, tokenizer and metadata differ in vocabulary size")
    return model


def _write(model: Model, ids: list[int], options: Options, arguments: argparse.Namespace) -> None:
    """Stream the texts to standard output, and print the number of tokens and the speed to standard error."""
    start = time.perf_counter()
    texts: list[list[int]] = []
    for seed in range(arguments.seed, arguments.seed + arguments.n):
        if arguments.n > 1:
            print(f"--- seed {seed}")
        texts.append([])
        limit = arguments.max_new_tokens
        tokens = generate(model.step, ids, model.metadata, options, seed=seed, max_new_tokens=limit)
        for text in decode_stream(model.tokenizer, _noting(tokens, texts[-1])):
            print(text, end="", flush=True)
        print()
    sys.stdout.flush()
    _tell(texts, model.metadata, time.perf_counter() - start)


def _search(model: Model, ids: list[int], options: beam.Options, arguments: argparse.Namespace) -> None:
    """Print the best texts of a beam search to standard output, and counts, speed and scores to standard error."""
    start = time.perf_counter()
    texts = beam.search(model.step, ids, model.metadata, options, max_new_tokens=arguments.max_new_tokens)
    seconds, texts = time.perf_counter() - start, texts[: arguments.n]
    for text in texts:
        if arguments.n > 1:
            print(f"--- score {text.score:.4f}")
        print(decode(model.tokenizer, text.tokens), flush=True)
    scores = ", ".join(f"{text.score:.4f}" for text in texts)
    _tell([list(text.tokens) for text in texts], model.metadata, seconds, f"; score: {scores}")


def _tell(texts: list[list[int]], metadata: Metadata, seconds: float, more: str = "") -> None:
    """Print the number of tokens, the speed and the finish reasons to standard error."""
    count, reasons = sum(map(len, texts)), ", ".join(finish_reason(text, metadata) for text in texts)
    said = f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s, finish reason: {reasons}{more}"
    say(said)


def _noting(tokens: Iterator[int], written: list[int]) -> Iterator[int]:
    """Yield the tokens, and append each of them to ``written``."""
    for token in tokens:
        written.append(token)
        yield token
