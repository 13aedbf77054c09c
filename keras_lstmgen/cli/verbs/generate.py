"""Run the verb ``generate``: generate texts, and print them or write them to a file."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from keras_lstmgen.api import generation_options
from keras_lstmgen.api.generation_options import GenerateOptions, Plan
from keras_lstmgen.api.loaded_model import LoadedModel
from keras_lstmgen.cli import chat_terminal, console
from keras_lstmgen.cli.display import generation_json
from keras_lstmgen.cli.verbs.run_arguments import find_run
from keras_lstmgen.files import atomic
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError

LINES = 1024  # number of lines of a prompt file whose texts are generated before they are printed


def run(arguments: argparse.Namespace) -> None:
    """Generate texts for each prompt, and print them or write them to a file."""
    plan = _plan(arguments)
    if arguments.output:
        _check_output(arguments.output)
    folder = find_run(arguments.run, arguments.runs)
    model = LoadedModel(run_directory.load(folder))
    if arguments.prompts is None:
        _generate(model, arguments, plan)
    else:
        _generate_lines(model, arguments)
    console.next_beside("keras-lstmgen", "evaluate", folder)


def _generate(model: LoadedModel, arguments: argparse.Namespace, plan: Plan) -> None:
    """Generate the texts for the prompt of the command line, or for each prompt that the user types."""
    generation = _Generation(model, arguments, plan)
    prompts = _typed_prompts() if arguments.interactive else [_read_prompt(arguments)]
    texts = [generation.show(prompt, arguments.seed + number) for number, prompt in enumerate(prompts)]
    if arguments.output:
        _write_file(arguments.output, ("\n" if generation.prints_json else "\n\n").join(texts))


def _generate_lines(model: LoadedModel, arguments: argparse.Namespace) -> None:
    """Generate texts for the lines of the prompt file in batches, and print or write them as lines of JSON."""
    requests, began = _requests(model, arguments), time.perf_counter()
    lines, tokens = list[str](), 0
    for start in range(0, len(requests), LINES):
        block = requests[start : start + LINES]
        for (prompt, plan), samples in zip(block, model.batch(block), strict=True):
            tokens += sum(sample.length for sample in samples)
            lines += generation_json.records(model, prompt, plan, samples)
        if not arguments.output:
            print("\n".join(lines), flush=True)
            lines.clear()
    if arguments.output:
        _write_file(arguments.output, "\n".join(lines) + "\n")
    _note_totals(tokens, time.perf_counter() - began)


def _requests(model: LoadedModel, arguments: argparse.Namespace) -> list[tuple[str, Plan]]:
    """Return the prompt and the options of each line of the prompt file; raise UserError for the first bad line."""
    given, requests = _given(arguments), list[tuple[str, Plan]]()
    for line in arguments.prompts:
        try:
            plan = generation_options.plan(generation_options.parse({**given, **line.values}))
            model.check(plan)
        except UserError as error:
            raise UserError(f"{line.place}: {error}") from error
        requests.append((line.prompt, plan))
    return requests


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the command line by name."""
    return {field.name: getattr(arguments, field.name) for field in fields(GenerateOptions)}


def _plan(arguments: argparse.Namespace) -> Plan:
    """Return the options of the command line; raise UserError if a value is out of range or has no effect."""
    options = GenerateOptions(**_given(arguments))
    # A text that is only printed is not stored, so that the memory use does not depend on the length of the text.
    keep = bool(arguments.n > 1 or arguments.output or arguments.json or arguments.logprobs is not None)
    return generation_options.plan(options, keep)


def _check_output(path: Path) -> None:
    """Raise UserError if the output file cannot be written. The check runs before any text is generated."""
    try:
        atomic.check_output(path)
    except UserError as error:
        raise UserError(f"--output {error}") from error


def _write_file(path: Path, text: str) -> None:
    """Write a text to a file. If the file cannot be written, print the text so that it is not lost."""
    try:
        atomic.write_output(path, text)
    except UserError:
        sys.stdout.write(f"{text}\n")
        raise


def _read_prompt(arguments: argparse.Namespace) -> str:
    """Return the prompt from ``--prompt`` or from the file of ``--prompt-file``."""
    if not arguments.prompt_file:
        return str(arguments.prompt)
    try:
        data = sys.stdin.buffer.read() if arguments.prompt_file == "-" else Path(arguments.prompt_file).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{arguments.prompt_file}: not UTF-8 at byte {error.start}; convert it first") from error
    except OSError as error:
        raise UserError(f"{arguments.prompt_file}: cannot be read ({error.strerror})") from error


def _typed_prompts() -> Iterator[str]:
    """Yield each prompt that the user types, until the end of the input."""
    while (prompt := chat_terminal.read_line("prompt> ")) is not None:
        yield prompt


class _Generation:
    """Generates texts for prompts and prints them."""

    def __init__(self, model: LoadedModel, arguments: argparse.Namespace, plan: Plan) -> None:
        """Check the options against the vocabulary of the run.

        Args:
            model: the loaded run.
            arguments: the command line.
            plan: the options of the generation.

        Raises:
            UserError: an option cannot be satisfied with the vocabulary of the run.
        """
        self.model, self.arguments, self.plan = model, arguments, plan
        self.prints_json = arguments.json or arguments.logprobs is not None
        model.check(plan)

    def show(self, prompt: str, seed: int) -> str:
        """Generate ``--n`` texts for a prompt and print them.

        Without ``--json``, ``--logprobs`` and ``--beams``, the first text is printed while it is generated. All other
        output is printed when all texts are complete. With ``--output``, nothing is printed.

        Args:
            prompt: the prompt.
            seed: seed of the first text.

        Returns:
            The texts, separated by blank lines; with ``--json`` or ``--logprobs``, lines of JSON.
        """
        plan = self.plan._replace(options=replace(self.plan.options, seed=seed))
        prefix = self._prefix(prompt)
        shown = 0  # characters

        def emit(row: int, text: str) -> None:
            nonlocal shown
            if row == 0 and not self.prints_json and not self.arguments.output:
                shown += len(text)
                sys.stdout.write(text)
                sys.stdout.flush()

        if prefix:
            emit(0, prefix)
        began = time.perf_counter()
        samples = self.model.samples(prompt, plan, emit)
        seconds = time.perf_counter() - began
        if self.arguments.json:
            whole = "\n".join(generation_json.records(self.model, prompt, plan, samples))
        elif self.arguments.logprobs is None:
            whole = "\n\n".join(prefix + sample.text for sample in samples)
        else:
            whole = "\n".join(self._logprobs(prompt, samples))
        if not self.arguments.output:
            sys.stdout.write(f"{whole[shown:]}\n")
            sys.stdout.flush()
        _note_results(samples, seconds)
        return whole

    def _prefix(self, prompt: str) -> str:
        """Return the text to print before a generated text.

        If the text is printed on a terminal, return the prompt. If the model was trained on pairs, the prompt is a
        source, and a newline is added. Return "" if the user has typed the prompt, or if the output is not a terminal.
        """
        arguments = self.arguments
        if not sys.stdout.isatty() or arguments.interactive or arguments.output or self.prints_json:
            return ""
        has_own_line = self.model.run.metadata.source_end_id != run_directory.NONE and not prompt.endswith("\n")
        return f"{prompt}\n" if prompt and has_own_line else prompt

    def _logprobs(self, prompt: str, samples: list[Sample]) -> Iterator[str]:
        """Yield a line of JSON for each token of each text."""
        for number, sample in enumerate(samples):
            for entry in self.model.token_logprobs(prompt, sample, self.arguments.logprobs):
                yield json.dumps({"text": number, **entry}, ensure_ascii=False)


def _note_results(samples: list[Sample], seconds: float) -> None:
    """Print a summary to standard error.

    The summary contains the number of generated tokens, the time, the reason why each text ended, and notes about the
    texts.
    """
    reasons = ", ".join(sample.finish_reason for sample in samples)
    scores = ", ".join(f"{sample.score:.4f}" for sample in samples if sample.score is not None)
    details = f"; ended by: {reasons}{f'; scores: {scores}' if scores else ''}"
    _note_totals(sum(sample.length for sample in samples), seconds, details)
    for number, sample in enumerate(samples, 1):
        if sample.note:
            console.notes.print(f"[bold]text {number}:[/bold] {escape(sample.note)}")


def _note_totals(tokens: int, seconds: float, details: str = "") -> None:
    """Print the number of generated tokens and the time to standard error."""
    summary = f"{tokens} tokens in {seconds:.1f} s, including compilation on the first call{details}"
    console.notes.print(f"[dim]{summary}[/dim]")
