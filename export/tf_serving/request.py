"""Command line of the TF Serving clients, which builds a request and prints the response; requires only Python.

A request can contain several rows, one per text. Each input, such as ``prompt``, has one entry per row.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.client import options_of, parser_of_texts, run, say

MAX_ROWS = 65_536  # largest number of rows of a request
NAME = "lstm"  # name of the model in models.config
Inputs = dict[str, list[Any]]
Answers = Mapping[str, Sequence[Any]]  # outputs text, token_count, finish_reason and logprob, with one entry per row


def inputs_of(arguments: argparse.Namespace) -> Inputs:
    """Return the inputs of ``serving_default``; the n rows differ only in their seeds: seed, seed + 1, ..."""
    n = arguments.n
    if n > MAX_ROWS:
        raise ValueError(f"n is out of range: a request has at most {MAX_ROWS} texts")
    row = {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens, **asdict(options_of(arguments))}
    seeds = [signed(arguments.seed + i) for i in range(n)]
    return {"seed": seeds, **{name: [value] * n for name, value in row.items()}}


def signed(seed: int) -> int:
    """Return the int64 that has the same 64 bits as a number from -2^63 to 2^64 - 1.

    >>> signed(2**64 - 1)
    -1
    """
    return (seed + 2**63) % 2**64 - 2**63


def main(ask: Callable[[str, Inputs], Answers], protocol: str, address: str) -> int:
    """Request the texts that the command line describes.

    Args:
        ask: function that sends a request to a server, and returns the response.
        protocol: name of the protocol for ``--help``.
        address: default address of the server.

    Returns:
        The exit status: 0, or 2 after an error message in one line on standard error.
    """
    return run(Path(sys.argv[0]).name, lambda: _texts(ask, protocol, address))


def _texts(ask: Callable[[str, Inputs], Answers], protocol: str, address: str) -> None:
    """Parse the command line, and request and print the texts."""
    parser = parser_of_texts(f"Request text from a running TF Serving by {protocol}.")
    parser.add_argument("--server", default=address, help="address of the server")
    arguments = parser.parse_args()
    try:
        inputs = inputs_of(arguments)
        answers = ask(arguments.server, inputs)
    except (ValueError, OSError) as error:
        raise ValueError(f"{arguments.server}: {error}") from error
    _print(inputs["seed"], answers)


def _print(seeds: Sequence[int], answers: Answers) -> None:
    """Print the texts to standard output, and the number of tokens and the finish reasons to standard error."""
    for seed, text in zip(seeds, answers["text"], strict=True):
        if len(seeds) > 1:
            print(f"--- seed {seed}")
        print(text)
    count = sum(int(number) for number in answers["token_count"])
    sys.stdout.flush()
    say(f"{count} tokens, finish reason: {', '.join(answers['finish_reason'])}")
