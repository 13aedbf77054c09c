"""Command line of the Python clients; each client passes the function that opens its artifact."""

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

Load = Callable[[Path], tuple[Step, bytes, bytes]]  # path -> step, metadata as JSON, SentencePiece model

# A step mainly reads all weights, which is limited by the memory bandwidth and not by the number of threads.
MAX_THREADS = 4
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # CPU quota of a container: microseconds per period, or "max"


def cores(quota: Path = CPU_MAX) -> int:
    """Return the number of cores that this process may use, by its affinity and the CPU quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(count, math.ceil(int(most) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return count


THREADS = min(cores(), MAX_THREADS)

DIGITS = 20  # number of digits of the largest 64-bit number

HELP = {
    "temperature": "divides the logits; 0 always takes the likeliest token",
    "top_k": "keeps the k likeliest tokens; 0: all",
    "top_p": "keeps the likeliest tokens that together reach this probability; 1: all",
    "min_p": "keeps tokens of at least this part of the largest probability; 0: all",
    "repetition_penalty": "makes tokens already in the text less likely; 1: off",
}


@contextmanager
def silence() -> Iterator[None]:
    """Discard the output of native code to standard error inside the context."""
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
    """Generate text with an artifact; return the exit status, 2 after a line on standard error for invalid input."""
    return run("generate.py", lambda: _texts(load, artifact))


def run(name: str, program: Callable[[], None]) -> int:
    """Run a program and return its exit status.

    The status is 2, after a line on standard error, if the program raises ValueError or the output cannot be written.
    It is 0 if the reader of standard output stops early. The null device replaces closed standard streams.
    """
    _open_closed()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # independent of the locale
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
    """Print a line to standard error; discard it if that fails."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(2)


def _open_closed() -> None:
    """Replace closed standard streams by the null device."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _discard(number: int) -> None:
    """Redirect a standard stream to the null device, so that its buffered output is discarded."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _texts(load: Load, artifact: str) -> None:
    """Generate the texts of the command line."""
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
        """Flush standard output and exit, after ``--help``."""
        sys.stdout.flush()
        super().exit(status, message)


def _arguments(artifact: str) -> argparse.Namespace:
    """Parse the command line."""
    parser = parser_of_texts(f"Write text with {artifact}.")
    parser.add_argument("model", type=Path, help=artifact)
    parser.add_argument(
        "--beams",
        type=whole,
        default=0,
        help="search for the best texts, this many at a time, and draw nothing; 0: draw",
    )
    parser.add_argument(
        "--length-penalty", type=real, default=0.0, help="of the search: above 0, longer texts score better"
    )
    return parser.parse_args()


def _searched(arguments: argparse.Namespace) -> beam.Options | None:
    """Return the options of a beam search, or None for sampling; raise ValueError for conflicting options."""
    if not arguments.beams:
        if arguments.length_penalty:
            raise ValueError("length_penalty is of a search: give beams too")
        return None
    options = beam.Options(arguments.beams, arguments.length_penalty)
    for field in fields(Options):
        if getattr(arguments, field.name) != field.default:
            raise ValueError(f"{field.name} has no place in a search, which draws nothing: leave it or beams out")
    if arguments.n > options.beams:
        raise ValueError(f"n is out of range: a search with {options.beams} beams finds that many texts at most")
    return options


def parser_of_texts(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of a text: prompt, seeds, length and sampling options."""
    parser = Parser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--prompt", type=_utf8, default="", help="text to continue; none: a new text")
    parser.add_argument("--seed", type=seed, default=0, help="64-bit number; the same one writes the same text")
    parser.add_argument("--n", type=_count, default=1, help="texts to write, with seed, seed + 1, ...")
    parser.add_argument("--max-new-tokens", type=_count, default=200, help="limit of each text, in tokens")
    for field in fields(Options):
        name, read = "--" + field.name.replace("_", "-"), whole if type(field.default) is int else real
        parser.add_argument(name, type=read, default=field.default, help=HELP[field.name])
    return parser


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the sampling options; raise ValueError for an option out of range."""
    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})


def _utf8(text: str) -> str:
    """Return an argument; raise ArgumentTypeError if its bytes are not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return text


def whole(text: str) -> int:
    """Parse an integer of ASCII digits."""
    if not re.fullmatch(r"[+-]?[0-9]+", text) or len(text.lstrip("+-0")) > DIGITS:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a whole number of at most {DIGITS} digits")
    return int(text)


def real(text: str) -> float:
    """Parse a number of ASCII digits; the range checks reject ``nan`` and ``inf`` later."""
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
    """Parse a positive number below 2^31."""
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
    except Exception as error:  # each runtime has its own exceptions for damaged files
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
    """Yield tokens, and append them to ``written``."""
    for token in tokens:
        written.append(token)
        yield token
