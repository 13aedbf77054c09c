"""Command line of the TF Serving clients: build the request and print the response; requires only Python.

The string signatures take columns: ``prompt`` and each option have one entry per row.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.client import options_of, parser_of_texts, run, say

MAX_ROWS = 65_536  # rows of a request
NAME = "lstm"  # name of the model in models.config
Inputs = dict[str, list[Any]]
Answers = Mapping[str, Sequence[Any]]  # text, token_count, finish_reason, logprob; one entry per row


def inputs_of(arguments: argparse.Namespace) -> Inputs:
    """Return the inputs of ``serving_default``: n rows with seed, seed + 1, ..."""
    n = arguments.n
    if n > MAX_ROWS:
        raise ValueError(f"n is out of range: a request has at most {MAX_ROWS} texts")
    row = {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens, **asdict(options_of(arguments))}
    seeds = [signed(arguments.seed + i) for i in range(n)]
    return {"seed": seeds, **{name: [value] * n for name, value in row.items()}}


def signed(seed: int) -> int:
    """Convert a 64-bit number to int64 by two's complement.

    >>> signed(2**64 - 1)
    -1
    """
    return (seed + 2**63) % 2**64 - 2**63


def main(ask: Callable[[str, Inputs], Answers], protocol: str, address: str) -> int:
    """Request texts from a server; return the exit status, 2 after a line on standard error for an error."""
    return run(Path(sys.argv[0]).name, lambda: _texts(ask, protocol, address))


def _texts(ask: Callable[[str, Inputs], Answers], protocol: str, address: str) -> None:
    """Request and print the texts of the command line."""
    parser = parser_of_texts(f"Write text with a running TF Serving, asked by {protocol}.")
    parser.add_argument("--server", default=address, help="where it listens")
    arguments = parser.parse_args()
    try:
        inputs = inputs_of(arguments)
        answers = ask(arguments.server, inputs)
    except (ValueError, OSError) as error:
        raise ValueError(f"{arguments.server}: {error}") from error
    _print(inputs["seed"], answers)


def _print(seeds: Sequence[int], answers: Answers) -> None:
    """Print the texts to standard output, and the counts to standard error."""
    for seed, text in zip(seeds, answers["text"], strict=True):
        if len(seeds) > 1:
            print(f"--- seed {seed}")
        print(text)
    count = sum(int(number) for number in answers["token_count"])
    sys.stdout.flush()
    say(f"{count} tokens, finish reason: {', '.join(answers['finish_reason'])}")
