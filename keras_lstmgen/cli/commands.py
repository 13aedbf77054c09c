"""What each verb of the command line does, stage by stage."""

import argparse
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from keras_lstmgen.config import effects, recipe
from keras_lstmgen.distribution import launcher
from keras_lstmgen.files import atomic, filenames, remote, spooling
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError, check_at_least, shell_quoted

with captured_stderr():
    from keras_lstmgen.cli import console, evaluation_report
    from keras_lstmgen.cli.stop_signals import stop_on_signals
    from keras_lstmgen.cli.training_run import run_training
    from keras_lstmgen.data import prepared_corpus, sources, splits
    from keras_lstmgen.distribution import workers
    from keras_lstmgen.evaluation.report import evaluate as evaluate_run
    from keras_lstmgen.exporters import export_run
    from keras_lstmgen.generation import beam_search, chat_session, decoding_loop, text_generation
    from keras_lstmgen.generation.logits_processors import HostOptions
    from keras_lstmgen.generation.sampling import Options
    from keras_lstmgen.interpret import inspect_run
    from keras_lstmgen.models import run_directory
    from keras_lstmgen.training import trainer

MOST_TEXTS = 65_536  # of one batch
LONGEST_NAME = 60  # characters of a name that a run gets by itself


def train(arguments: argparse.Namespace) -> None:
    """Train a new run, or go on with one; as one of several workers, if it is one."""
    _within("--workers", arguments.workers, 1, launcher.MAX_WORKERS)
    if not os.environ.get("TF_CONFIG"):
        launcher.report_idle_gpus(1)
    with workers.connected():
        if workers.is_chief():
            folder = _trained(arguments)
        else:
            with stop_on_signals() as stop:
                trainer.train_as_worker(arguments.runs, stop)
    if workers.is_chief():
        console.next_command("keras-lstmgen", "generate", folder, "--temperature", "0.8")


def _trained(arguments: argparse.Namespace) -> Path:
    given = _knobs(arguments)
    if arguments.resume:
        if arguments.source or arguments.name:
            raise UserError("--resume: the run has a text and a name; leave them out, or train a new run without it")
        folder = _found(arguments.resume, arguments.runs)
        settings = recipe.override(recipe.load(folder / run_directory.RECIPE), given, "--")
        effects.check(settings, given, "--")
        _tell_left_out(settings.corpus)
        return run_training(partial(trainer.resume, folder, settings))
    settings, name = _what_to_train(arguments.source, given)
    _tell_left_out(settings.corpus)
    return run_training(partial(trainer.train, settings, arguments.runs, arguments.name or name))


def _tell_left_out(corpus: recipe.Corpus) -> None:
    """Print the files that are skipped in the folders of a corpus."""
    console.left_out(sources.left_out((*corpus.source, *corpus.validation)))


def prepare(arguments: argparse.Namespace) -> None:
    """Turn a corpus into a folder of ids."""
    settings, _ = _what_to_train(arguments.source, _knobs(arguments))
    with captured_stderr():
        preparing = _with_beam()
    _tell_left_out(settings.corpus)
    began = time.perf_counter()
    with console.out.status("reading the corpus") as status:
        about = preparing.prepare(settings, arguments.output, arguments.beam, status.update)
    console.prepared(arguments.output, about, time.perf_counter() - began)
    folder = arguments.output
    if remote.is_address(folder):
        folder = folder.rstrip("/").rpartition("/")[2]
        console.out.print(
            f"Training reads it from a folder of its own machine: copy it to {folder} there.", markup=False
        )
    console.next_command("keras-lstmgen", "train", folder)


def _with_beam() -> Any:
    try:
        from keras_lstmgen.preparation import pipeline
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise UserError("prepare: needs Apache Beam; pip install 'keras_lstmgen[beam]'") from error
    return pipeline


def _knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of a recipe that stand on the command line."""
    return {name: value for name, value in vars(arguments).items() if "." in name}


def _what_to_train(words: list[str], given: dict[str, Any]) -> tuple[recipe.Recipe, str]:
    """The recipe, and a name for the run, from what stands on the command line."""
    recipes = [word for word in words if word.endswith(".toml") and not Path(filenames.native(word)).is_dir()]
    if recipes and len(words) > 1:
        raise UserError(f"{recipes[0]}: a recipe stands alone; its text is given by --corpus.source")
    if recipes:
        settings = recipe.override(recipe.load(Path(filenames.native(recipes[0]))), given, "--")
        _check_effects(settings, given, f"{recipes[0]}: ")
        return settings, Path(recipes[0]).stem
    if words and "corpus.source" in given:
        raise UserError(f"{words[0]}: has no effect beside --corpus.source; leave one of them out")
    _tell_of_reserved(words)
    settings = recipe.override(recipe.Recipe(), {"corpus.source": words} if words else {})
    settings = recipe.override(settings, given, "--")
    _check_effects(settings, given, "")
    first = words[0] if words else "quickstart"
    return settings, "text" if spooling.is_read_once(first) else _named_after(first)


def _check_effects(settings: recipe.Recipe, given: Iterable[str], where: str) -> None:
    """Refuse values without an effect: those given as options, then those of the recipe, whose place is ``where``."""
    whole = prepared_corpus.with_prepared_tables(settings)
    effects.check(whole, given, "--")
    effects.check(whole, recipe.recipe_fields(), where)


def _named_after(source: str) -> str:
    """A folder name out of a path, glob or URL: ``"books/*.txt"`` gives ``"books"``."""
    plain = source.partition("?")[0] if "://" in source else source
    words = [word for word in plain.split("/") if word]
    if not Path(source).exists():  # a glob; a file may have its signs in its name
        words = [word for word in words if not set(word) & set("*?[")]
    name = unicodedata.normalize("NFC", words[-1] if words else "").removesuffix(".gz")
    stem = name if Path(source).is_dir() else Path(name).stem
    return re.sub(r"[^\w-]+", "-", stem).strip("-_")[:LONGEST_NAME] or "text"


def _found(name: str | None, runs: Path) -> Path:
    """Find a run. Where a folder in the working directory has the same name, say that the run is used."""
    folder = run_directory.find(name, runs)
    if name and not run_directory.is_path(name) and Path(name).is_dir() and not folder.samefile(name):
        _tell_apart(name, f"the run {folder}", "folder")
    return folder


def _tell_of_reserved(texts: Sequence[str]) -> None:
    """Say which one is used where a file has a name that stands for something else."""
    for name, what in (("pydoc", "Python's language reference"), ("-", "standard input")):
        if name in texts and Path(name).exists():
            _tell_apart(name, what, "file")


def _tell_apart(name: str, used: str, other: str) -> None:
    """Print to standard error which of two things a word selects, and how to select the other one."""
    hint = f"for the {other} in the working directory, type {shell_quoted(Path(name))}"
    console.notes.print(f"{name}: using {used}; {hint}", markup=False)


def generate(arguments: argparse.Namespace) -> None:
    """Write, to the screen as it comes or to a file."""
    options, host, asked = _choices(arguments)
    effects.check_sampling(arguments)
    if arguments.output:
        _check_output(arguments.output)
    folder = _found(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    step = decoding_loop.stepper(model.weights)
    write = _writer(model, step, options, host, asked, arguments)
    read = model.recipe.corpus
    arguments.stop = [splits.normalized(word, read) for word in arguments.stop]
    given = _asked() if arguments.interactive else [_prompt(arguments)]
    prompts = (splits.normalized_prompt(prompt, read) for prompt in given)
    texts = [
        _write(model, step, prompt, partial(write, prompt, arguments.seed + number), arguments)
        for number, prompt in enumerate(prompts)
    ]
    if arguments.output:
        _keep_text(arguments.output, ("\n\n" if arguments.logprobs is None else "\n").join(texts))
    console.next_beside("keras-lstmgen", "evaluate", folder)


def _choices(arguments: argparse.Namespace) -> tuple[Options, HostOptions, beam_search.Search | None]:
    """How tokens are chosen; UserError for what is out of range or does not go together."""
    options = _drawn(arguments)
    words = {name: getattr(arguments, name) for name in HostOptions.__dataclass_fields__}
    host = HostOptions(**{**words, "logit_bias": tuple(arguments.logit_bias)})
    _within("--n", arguments.n, 1, MOST_TEXTS)
    _within("--max-new-tokens", arguments.max_new_tokens, 1)
    if arguments.logprobs is not None:
        _within("--logprobs", arguments.logprobs, 0)
    return options, host, _search(options, arguments)


def _drawn(arguments: argparse.Namespace) -> Options:
    return Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})


def _search(options: Options, arguments: argparse.Namespace) -> beam_search.Search | None:
    """The beam search that is asked for, if it is."""
    if not arguments.beams:
        if arguments.length_penalty:
            raise UserError("--length-penalty: is of a beam search; give --beams too")
        return None
    asked = beam_search.Search(arguments.beams, arguments.length_penalty, arguments.max_new_tokens)
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
    asked: beam_search.Search | None,
    arguments: argparse.Namespace,
) -> Callable[..., list[text_generation.Sample]]:
    """What takes a prompt, a seed and ``emit``, and writes ``--n`` texts."""
    limits = text_generation.constrained(model, host) if host != HostOptions() else None
    if asked is not None:
        return lambda prompt, _seed, _emit: text_generation.search(
            model, step, prompt, asked, limits=limits, stop=arguments.stop
        )[: arguments.n]
    call = text_generation.writer(model)
    return lambda prompt, seed, emit: text_generation.generate(
        model, prompt, arguments.max_new_tokens, options, seeds=[seed + row for row in range(arguments.n)],
        stop=arguments.stop, emit=emit, call=call, limits=limits, keep=_kept(arguments),
    )  # fmt: skip


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


def _within(name: str, value: int, low: int, high: int = 2**31 - 1) -> None:
    """Raise UserError for a number out of range; the default maximum is that of an int32 graph input."""
    check_at_least(name, value, low)
    if value > high:
        raise UserError(f"{name}: {value} is out of range; give {high} or less")


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
    while (prompt := chat_session.line_typed("prompt> ")) is not None:
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
    model: run_directory.Run, step: decoding_loop.Step, prompt: str, samples: list[text_generation.Sample], K: int
) -> Iterator[str]:
    """A line of JSON for each token of each text."""
    for number, sample in enumerate(samples):
        for told in text_generation.logprobs(model, step, prompt, sample.tokens, K):
            yield json.dumps({"text": number, **told}, ensure_ascii=False)


def _tell(samples: list[text_generation.Sample], seconds: float) -> None:
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
    memory = chat_session.turns_kept(model.metadata, arguments.memory)
    speaker = chat_session.Speaker(model, text_generation.writer(model), options, arguments.max_new_tokens, memory)
    chat_session.converse(speaker, arguments.seed)
    console.next_beside("keras-lstmgen", "evaluate", folder)


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure, print the tables or the JSON, write ``evaluation.json``."""
    _within("--samples", arguments.samples, 0)
    _within("--sample-tokens", arguments.sample_tokens, 1)
    folder = _found(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    settings = recipe.override(model.recipe, _knobs(arguments), "--")
    effects.check(settings, _knobs(arguments), "--")
    effects.check_samples(arguments, settings.evaluate)
    _tell_of_reserved(arguments.text)
    console.left_out(sources.left_out(arguments.text))
    report = evaluate_run(model, arguments.text, arguments.samples, arguments.sample_tokens, settings.evaluate)
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False), flush=True)
    else:
        evaluation_report.show(folder, report)
    atomic.write_json(folder / "evaluation.json", report)  # last: what is measured is printed also where this fails
    if arguments.json:
        console.next_beside("keras-lstmgen", "export", folder)
    else:
        console.next_command("keras-lstmgen", "export", folder)


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


def export(arguments: argparse.Namespace) -> None:
    """Write and verify the artifacts."""
    folder = _found(arguments.run, arguments.runs)
    settings = recipe.parse(run_directory.load_metadata(folder).recipe)
    asked = {name: getattr(arguments, name) for name in ("formats", "texts", "tokens")}
    given = {f"export.{name}": value for name, value in asked.items() if value is not None}
    settings = recipe.override(settings, given, "--")
    export_run.hide_gpus()
    try:
        console.exported(folder, export_run.export(folder, settings.export))
    except export_run.ExportError as error:
        console.exported(folder, error.results)
        raise
    console.next_command("keras-lstmgen", "info", folder)


def info(arguments: argparse.Namespace) -> None:
    """Say what a run is, or list all."""
    if arguments.run is None:
        console.list_runs(arguments.runs)
        console.slow_training()
        console.next_command("keras-lstmgen", "info", run_directory.find(None, arguments.runs))
    else:
        folder = _found(arguments.run, arguments.runs)
        console.describe(folder, asdict(run_directory.load_metadata(folder)))
        console.slow_training()
        console.next_command("keras-lstmgen", "generate", folder)
