"""What the clients ask of a server, and how they print what comes back. Python alone.

The signatures in strings take columns: ``prompt`` and every option has one entry a row.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.client import options_of, parser_of_texts, run, say

MOST_ROWS = 65_536  # of a request
NAME = "lstm"  # of the model, in models.config
Inputs = dict[str, list[Any]]
Answers = Mapping[str, Sequence[Any]]  # text, token_count, finish_reason, logprob: one entry a row


def inputs_of(arguments: argparse.Namespace) -> Inputs:
    """The inputs of ``serving_default``: n rows, with seed, seed + 1, ..."""
    n = arguments.n
    if n > MOST_ROWS:
        raise ValueError(f"n is out of range: a request has at most {MOST_ROWS} texts")
    row = {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens, **asdict(options_of(arguments))}
    seeds = [signed(arguments.seed + i) for i in range(n)]
    return {"seed": seeds, **{name: [value] * n for name, value in row.items()}}


def signed(seed: int) -> int:
    """The 64-bit number as int64, which the signature takes: two's complement."""
    return (seed + 2**63) % 2**64 - 2**63


def main(ask: Callable[[str, Inputs], Answers], protocol: str, address: str) -> int:
    """Ask a server for texts and return the exit status: 2, after one line on stderr, for bad input or no answer."""
    return run(Path(sys.argv[0]).name, lambda: _texts(ask, protocol, address))


def _texts(ask: Callable[[str, Inputs], Answers], protocol: str, address: str) -> None:
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
    for seed, text in zip(seeds, answers["text"], strict=True):
        if len(seeds) > 1:
            print(f"--- seed {seed}")
        print(text)
    count = sum(int(number) for number in answers["token_count"])
    sys.stdout.flush()
    say(f"{count} tokens, finish reason: {', '.join(answers['finish_reason'])}")
