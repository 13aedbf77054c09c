"""The command line that the Python clients share; each brings the function that opens its own artifact."""

import argparse
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from export import beam
from export.contract import Metadata, Options, Step, finish_reason, generate, prompt_ids, read_metadata
from export.tokenizer import Tokenizer, decode, decode_stream, encode, read

Load = Callable[[Path], tuple[Step, bytes, bytes]]  # path -> step, the metadata's JSON, the SentencePiece model

# A step is little more than one reading of all weights, which many threads do no faster than a few.
MOST_THREADS = 4
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # the CPU quota of a container: microseconds in so many, or "max"


def cores(quota: Path = CPU_MAX) -> int:
    """Count the cores that this process may use: by its affinity, and by the CPU quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(count, math.ceil(int(most) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return count


THREADS = min(cores(), MOST_THREADS)

HELP = {
    "temperature": "divides the logits; 0 always takes the likeliest token",
    "top_k": "keeps the k likeliest tokens; 0: all",
    "top_p": "keeps the likeliest tokens that together reach this probability; 1: all",
    "min_p": "keeps tokens of at least this part of the largest probability; 0: all",
    "repetition_penalty": "makes tokens already in the text less likely; 1: off",
}


@contextmanager
def silence() -> Iterator[None]:
    """Keep what native code says on standard error to itself; Python's exceptions pass."""
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
    """An artifact, opened."""

    step: Step
    metadata: Metadata
    tokenizer: Tokenizer


def main(load: Load, artifact: str) -> int:
    """Write text with one artifact and return the exit status: 2, after one line on stderr, for bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the terminal says of itself
    arguments = _arguments(artifact)
    try:
        options, searched = options_of(arguments), _searched(arguments)
        model = open_model(load, arguments.model)
        ids = prompt_ids(encode(model.tokenizer, arguments.prompt), model.metadata)
    except ValueError as error:
        print(f"generate.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if searched:
        _search(model, ids, searched, arguments)
    else:
        _write(model, ids, options, arguments)
    return 0


def _arguments(artifact: str) -> argparse.Namespace:
    parser = parser_of_texts(f"Write text with {artifact}.")
    parser.add_argument("model", type=Path, help=artifact)
    parser.add_argument(
        "--beams", type=int, default=0, help="search for the best texts, this many at a time, and draw nothing; 0: draw"
    )
    parser.add_argument(
        "--length-penalty", type=float, default=0.0, help="of the search: above 0, longer texts score better"
    )
    return parser.parse_args()


def _searched(arguments: argparse.Namespace) -> beam.Options | None:
    """What a search is asked for, if it is; ``ValueError`` names an option that does not go with it."""
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
    """The options of a text: prompt, seeds, length, and how a token is chosen."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--prompt", type=_utf8, default="", help="text to continue; none: a new text")
    parser.add_argument("--seed", type=int, default=0, help="64-bit number; the same one writes the same text")
    parser.add_argument("--n", type=_at_least_1, default=1, help="texts to write, with seed, seed + 1, ...")
    parser.add_argument("--max-new-tokens", type=_at_least_1, default=200, help="limit of each text, in tokens")
    for field in fields(Options):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default, help=HELP[field.name])
    return parser


def options_of(arguments: argparse.Namespace) -> Options:
    """What ``parser_of_texts`` read of them; ``ValueError`` names one out of range."""
    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})


def _utf8(text: str) -> str:
    """Refuse what the shell passed on as bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return text


def _at_least_1(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def open_model(load: Load, path: Path) -> Model:
    """Open an artifact; whatever is wrong with it is a ``ValueError`` that begins with its path."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such model")
    try:
        step, json, tokenizer = load(path)
        model = Model(step, read_metadata(json), read(tokenizer))
        logits, _ = step(model.metadata.start_id, np.zeros(model.metadata.state_size, np.float32))
    except Exception as error:  # every runtime has its own for a damaged file
        raise ValueError(f"{path}: cannot be used: {error}") from error
    if not len(logits) == len(model.tokenizer.pieces) == model.metadata.vocab_size:
        raise ValueError(f"{path}: cannot be used: model, tokenizer and metadata differ in vocabulary size")
    return model


def _write(model: Model, ids: list[int], options: Options, arguments: argparse.Namespace) -> None:
    """Stream the texts to standard output, and then count and speed to standard error."""
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
    _tell(texts, model.metadata, time.perf_counter() - start)


def _search(model: Model, ids: list[int], options: beam.Options, arguments: argparse.Namespace) -> None:
    """Print the best texts of a search to standard output, and count, speed and scores to standard error."""
    start = time.perf_counter()
    texts = beam.search(model.step, ids, model.metadata, options, max_new_tokens=arguments.max_new_tokens)
    seconds, texts = time.perf_counter() - start, texts[: arguments.n]
    for text in texts:
        if arguments.n > 1:
            print(f"--- score {text.score:.4f}")
        print(decode(model.tokenizer, text.tokens))
    scores = ", ".join(f"{text.score:.4f}" for text in texts)
    _tell([list(text.tokens) for text in texts], model.metadata, seconds, f"; score: {scores}")


def _tell(texts: list[list[int]], metadata: Metadata, seconds: float, more: str = "") -> None:
    """Say on standard error how much was written, how fast, and why it ended."""
    count, reasons = sum(map(len, texts)), ", ".join(finish_reason(text, metadata) for text in texts)
    said = f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s, finish reason: {reasons}{more}"
    print(said, file=sys.stderr)


def _noting(tokens: Iterator[int], written: list[int]) -> Iterator[int]:
    """Pass tokens on, and keep them in ``written``."""
    for token in tokens:
        written.append(token)
        yield token
