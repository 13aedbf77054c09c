"""What each verb of the command line does, stage by stage."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from keras_lstmgen.config import effects
from keras_lstmgen.files import atomic
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError

with captured_stderr():
    from keras_lstmgen.cli import chat_terminal, console
    from keras_lstmgen.cli.verbs.evaluate import run as evaluate
    from keras_lstmgen.cli.verbs.export import run as export
    from keras_lstmgen.cli.verbs.info import run as info
    from keras_lstmgen.cli.verbs.prepare import run as prepare
    from keras_lstmgen.cli.verbs.run_arguments import check_range as _within
    from keras_lstmgen.cli.verbs.run_arguments import find_run as _found
    from keras_lstmgen.cli.verbs.run_arguments import note_reserved_names as _tell_of_reserved
    from keras_lstmgen.cli.verbs.run_arguments import sampling_options as _drawn
    from keras_lstmgen.cli.verbs.train import run as train
    from keras_lstmgen.data import sources, splits
    from keras_lstmgen.generation import beam_search, chat_session, decoding_loop, text_generation
    from keras_lstmgen.generation.growing_text import Sample
    from keras_lstmgen.generation.logits_processors import HostOptions
    from keras_lstmgen.generation.sampling import Options
    from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
    from keras_lstmgen.interpret import inspect_run
    from keras_lstmgen.models import run_directory

__all__ = ["chat", "evaluate", "export", "generate", "info", "inspect", "prepare", "train"]
MOST_TEXTS = 65_536  # of one batch


def generate(arguments: argparse.Namespace) -> None:
    """Write, to the screen as it comes or to a file."""
    options, host, asked = _choices(arguments)
    effects.check_sampling(arguments)
    if arguments.output:
        _check_output(arguments.output)
    folder = _found(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    step = decoding_loop.compile_step(model.weights)
    read = model.recipe.corpus
    arguments.stop = [splits.normalized(word, read) for word in arguments.stop]
    write = _writer(model, step, options, host, asked, arguments)
    given = _asked() if arguments.interactive else [_prompt(arguments)]
    prompts = (splits.normalized_prompt(prompt, read) for prompt in given)
    texts = [
        _write(model, step, prompt, partial(write, prompt, arguments.seed + number), arguments)
        for number, prompt in enumerate(prompts)
    ]
    if arguments.output:
        _keep_text(arguments.output, ("\n\n" if arguments.logprobs is None else "\n").join(texts))
    console.next_beside("keras-lstmgen", "evaluate", folder)


def _choices(arguments: argparse.Namespace) -> tuple[Options, HostOptions, beam_search.BeamSearchConfig | None]:
    """How tokens are chosen; UserError for what is out of range or does not go together."""
    options = _drawn(arguments)
    words = {name: getattr(arguments, name) for name in HostOptions.__dataclass_fields__}
    host = HostOptions(**{**words, "logit_bias": tuple(arguments.logit_bias)})
    _within("--n", arguments.n, 1, MOST_TEXTS)
    _within("--max-new-tokens", arguments.max_new_tokens, 1)
    if arguments.logprobs is not None:
        _within("--logprobs", arguments.logprobs, 0)
    return options, host, _search(options, arguments)


def _search(options: Options, arguments: argparse.Namespace) -> beam_search.BeamSearchConfig | None:
    """The beam search that is asked for, if it is."""
    if not arguments.beams:
        if arguments.length_penalty:
            raise UserError("--length-penalty: is of a beam search; give --beams too")
        return None
    asked = beam_search.BeamSearchConfig(arguments.beams, arguments.length_penalty, arguments.max_new_tokens)
    for name, value in asdict(Options()).items():
        if getattr(options, name) != value:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: has no place in a beam search, which draws nothing; leave it or --beams out")
    if arguments.n > asked.beams:
        raise UserError(f"--n: {arguments.n} is out of range; a search with --beams {asked.beams} finds no more texts")
    return asked


def _writer(
    model: run_directory.Run,
    step: decoding_loop.Step,
    options: Options,
    host: HostOptions,
    asked: beam_search.BeamSearchConfig | None,
    arguments: argparse.Namespace,
) -> Callable[..., list[Sample]]:
    """What takes a prompt, a seed and ``emit``, and writes ``--n`` texts."""
    if asked is not None:
        constraints = text_generation.compile_constraints(model, host)
        return lambda prompt, _seed, _emit: text_generation.search(
            model, step, prompt, asked, constraints=constraints, stop=arguments.stop
        )[: arguments.n]
    generator, processors = Generator(model), host if host != HostOptions() else None
    if processors:
        generator.constraints(processors)  # detects an invalid option before the first prompt is read
    config = GenerationConfig(arguments.max_new_tokens, options, arguments.stop, processors, _kept(arguments))
    return lambda prompt, seed, emit: generator.generate(
        prompt, config, seeds=[seed + row for row in range(arguments.n)], emit=emit
    )


def _kept(arguments: argparse.Namespace) -> bool:
    """Whether texts are wanted again once they were shown: else the longest takes no more memory than the shortest."""
    return bool(arguments.n > 1 or arguments.output or arguments.logprobs is not None)


def _check_output(path: Path) -> None:
    """Raise UserError, before anything is generated, if the output file cannot be written."""
    try:
        atomic.check_output(path)
    except UserError as error:
        raise UserError(f"--output {error}") from error


def _keep_text(path: Path, text: str) -> None:
    """Write the text to a file; print it if that fails, so that it is not lost."""
    try:
        atomic.write_output(path, text)
    except UserError:
        sys.stdout.write(f"{text}\n")
        raise


def _prompt(arguments: argparse.Namespace) -> str:
    if not arguments.prompt_file:
        return str(arguments.prompt)
    try:
        data = sys.stdin.buffer.read() if arguments.prompt_file == "-" else Path(arguments.prompt_file).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{arguments.prompt_file}: not UTF-8 at byte {error.start}; convert it first") from error
    except OSError as error:
        raise UserError(f"{arguments.prompt_file}: cannot be read ({error.strerror})") from error


def _asked() -> Iterator[str]:
    """Prompts from the keyboard, until the end of input."""
    while (prompt := chat_terminal.read_line("prompt> ")) is not None:
        yield prompt


def _write(
    model: run_directory.Run,
    step: decoding_loop.Step,
    prompt: str,
    write: Callable[..., Any],
    arguments: argparse.Namespace,
) -> str:
    """Write ``--n`` texts: the first flows, the others follow. Gives all that is kept, a blank line between two.

    With ``--logprobs`` it gives lines of JSON instead.
    """
    shown = 0  # characters

    def emit(row: int, text: str) -> None:
        nonlocal shown
        if row == 0 and arguments.logprobs is None and not arguments.output:
            shown += len(text)
            sys.stdout.write(text)
            sys.stdout.flush()

    began = time.perf_counter()
    samples = write(emit)
    seconds = time.perf_counter() - began
    if arguments.logprobs is None:
        whole = "\n\n".join(sample.text for sample in samples)
    else:
        whole = "\n".join(_logprobs(model, step, prompt, samples, arguments.logprobs))
    if not arguments.output:
        sys.stdout.write(f"{whole[shown:]}\n")
        sys.stdout.flush()
    _tell(samples, seconds)
    return whole


def _logprobs(
    model: run_directory.Run, step: decoding_loop.Step, prompt: str, samples: list[Sample], K: int
) -> Iterator[str]:
    """A line of JSON for each token of each text."""
    for number, sample in enumerate(samples):
        for told in text_generation.token_logprobs(model, step, prompt, sample.tokens, K):
            yield json.dumps({"text": number, **told}, ensure_ascii=False)


def _tell(samples: list[Sample], seconds: float) -> None:
    """Say beside the texts how much was written, why it ended, and what went otherwise than was asked."""
    tokens = sum(sample.length for sample in samples)
    reasons = ", ".join(sample.finish_reason for sample in samples)
    scores = ", ".join(f"{sample.score:.4f}" for sample in samples if sample.score is not None)
    said = f"{tokens} tokens in {seconds:.1f} s, the first call's compiling included; ended by: {reasons}"
    console.notes.print(f"[dim]{said}{f'; scores: {scores}' if scores else ''}[/dim]")
    for number, sample in enumerate(samples, 1):
        if sample.note:
            console.notes.print(f"[bold]text {number}:[/bold] {escape(sample.note)}")


def chat(arguments: argparse.Namespace) -> None:
    """Answer what is typed, turn by turn, until the end of input."""
    options = _drawn(arguments)
    effects.check_sampling(arguments)
    _within("--max-new-tokens", arguments.max_new_tokens, 1)
    folder = _found(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    memory = chat_session.remembered_turns(model.metadata, arguments.memory)
    config = GenerationConfig(arguments.max_new_tokens, options)
    chat_model = chat_session.ChatModel(Generator(model), config, memory)
    chat_terminal.converse(chat_session.ChatSession(chat_model, arguments.seed))
    console.next_beside("keras-lstmgen", "evaluate", folder)


def inspect(arguments: argparse.Namespace) -> None:
    """Draw a layer at work over a text."""
    _within("--max-new-tokens", arguments.max_new_tokens, 0)
    _tell_of_reserved(arguments.text)
    options = _drawn(arguments)
    effects.check_sampling(arguments)
    asked = {name: getattr(arguments, name) for name in inspect_run.Asked.__dataclass_fields__ if name != "options"}
    folder = _found(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    asked["prompt"] = splits.normalized_prompt(arguments.prompt, model.recipe.corpus)
    console.left_out(sources.left_out(arguments.text))
    inspect_run.inspect(model, inspect_run.Asked(**asked, options=options), _folder(arguments, folder))
    console.next_command("keras-lstmgen", "evaluate", folder)


def _folder(arguments: argparse.Namespace, run_folder: Path) -> Path:
    """Return the folder for pictures; raise UserError, before anything is drawn, if it cannot be written to."""
    path: Path = arguments.output or run_folder / "inspect"
    if path.exists() and not path.is_dir():
        raise UserError(f"--output {path}: is a file; name a folder")
    atomic.check_writable(next(folder for folder in (path, *path.absolute().parents) if folder.is_dir()))
    return path
