"""The report on a run: its loss on held-out text in every unit, how much it copies, and what its recipe asks for."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstmgen.cli import console
from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, prepared_corpus, sources, splits
from keras_lstmgen.data.token_cache import encode_split
from keras_lstmgen.evaluation import likelihood, memorization, metrics, task_metrics
from keras_lstmgen.files import filenames
from keras_lstmgen.generation import text_generation
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.utils.errors import UserError

OF_TRAINING = {"bleu", "exact_match", "recall", "kind", "verses", "ngram"}  # measures that read the training text


def evaluate(
    model: Run, texts: list[str], samples: int, sample_tokens: int, asked: recipe.Evaluate | None = None
) -> dict[str, Any]:
    """Measure ``model`` on ``texts`` (none: the run's held-out text), and on what it writes itself.

    ``asked`` are the measures beside the loss; None: those of the run's recipe.
    """
    settings = model.recipe
    asked = asked or settings.evaluate
    training = prepared_corpus.text(settings.corpus)
    _check(training, texts, samples, asked)
    held_out = splits.measured_on(training, texts)
    report: dict[str, Any] = {
        "text": ", ".join(map(filenames.stored, texts)) or f"{splits.validates_on(training)} of the run"
    }
    report |= _on_text(model, held_out, settings.carries)
    if samples:
        report["samples"] = _on_samples(model, training, held_out, samples, sample_tokens)
    if asked.measures:
        report["measures"] = task_metrics.measured(task_metrics.Task(model, training, held_out, asked, sample_tokens))
    return report


def _check(training: recipe.Corpus, texts: Sequence[str], samples: int, asked: recipe.Evaluate) -> None:
    """Find out before the measuring, not after it, what is missing: the text of a run may have been moved."""
    for name in asked.measures:
        metrics.library(name)
    of_training = [name for name in asked.measures if name in OF_TRAINING]
    reads_source = bool(samples or of_training or not (texts or training.validation))
    try:
        if reads_source:
            sources.resolve(training)
        if training.validation and not texts:
            splits.validation_sources(training)
    except UserError as error:
        raise UserError(f"{error}; without it: {_ways(texts, samples, of_training)}") from error


def _ways(texts: Sequence[str], samples: int, of_training: Sequence[str]) -> str:
    """Say how a run is measured without the text that it names."""
    ways = [] if texts else ["name a text to measure on"]
    ways += ["give --samples 0"] if samples else []
    ways += [f"give --evaluate.measures without {', '.join(of_training)}"] if of_training else []
    return " and ".join(ways)


def _on_text(model: Run, settings: recipe.Corpus, carries: bool) -> dict[str, Any]:
    """The loss of a whole text: as one stream with the state carried, or of what the run has read each by itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.ids"
        counts, _ = encode_split(settings, "validation", model.tokenizer, path, "<i4")
        ids = np.memmap(path, "<i4", "r")
        if len(ids) < 2:
            raise UserError(f"{_name(settings)}: has no token to predict; give a longer text")
        of_examples = _of_pairs if settings.is_pairs else _of_documents
        loss = (_of_stream if carries else of_examples)(model, counts, ids)
        return {"counts": counts, "loss": loss}


def _of_stream(model: Run, counts: dict[str, int], ids: np.ndarray[Any, Any]) -> dict[str, float]:
    """The loss with the state carried; the first token has nothing before it."""
    counts = likelihood.predicted(counts, int(ids[0]), model.tokenizer)
    call = likelihood.scorer(model.weights)
    loss = likelihood.measures(_nats(model, ids, call), counts)
    with reporter.status("windows read from an empty state"):
        loss["nats_per_token_fresh_windows"] = likelihood.fresh_nats(model.weights, ids, call=call)
    return loss


def _of_documents(model: Run, counts: dict[str, int], ids: np.ndarray[Any, Any]) -> dict[str, float]:
    """The loss of documents, each by itself: of all but their start symbols."""
    held_out = example_batches.documents(ids)
    nats = _nats_of_examples(model, held_out, likelihood.scorer(model.weights), "documents")
    return likelihood.measures(nats, counts | {"tokens": example_batches.predicted(held_out)})


def _of_pairs(model: Run, counts: dict[str, int], ids: np.ndarray[Any, Any]) -> dict[str, float]:
    """The loss of targets behind their sources, and what it is behind another source: it shows what these tell."""
    held_out, call = example_batches.find(ids), likelihood.scorer(model.weights)
    name = "targets"
    right, other = (
        _nats_of_examples(model, part, call, name) for part in (held_out, example_batches.shuffled(held_out))
    )
    loss = likelihood.measures(right, counts)
    loss["nats_per_token_behind_another_source"] = other / counts["tokens"]
    loss["gain_of_the_right_source"] = (other - right) / counts["tokens"]
    return loss


def _nats_of_examples(model: Run, held_out: example_batches.Pairs, call: Callable[..., Any], name: str) -> float:
    with reporter.progress(name, example_batches.count(held_out)) as advance:
        return likelihood.examples_nats(model.weights, held_out, call, advance)


def _name(settings: recipe.Corpus) -> str:
    return ", ".join(settings.validation or settings.source)


def _nats(model: Run, ids: np.ndarray[Any, Any], call: Callable[..., Any]) -> float:
    with reporter.progress("held-out text", len(ids) - 1) as advance:
        return likelihood.total_nats(model.weights, ids, call=call, advance=advance)


def _on_samples(
    model: Run, settings: recipe.Corpus, held_out: recipe.Corpus, samples: int, tokens: int
) -> dict[str, Any]:
    """What the first samples have from the training text; they are written with neutral options, seeds 0, 1, …

    Those of a model of pairs are answers to the first held-out sources, held against the training targets.
    """
    report: dict[str, Any] = {}
    if settings.is_pairs:
        asked = dict.fromkeys(source for source, _ in map(task_metrics.split, splits.pieces(held_out, "validation")))
        report["sources"] = list(islice(cycle(asked), samples))
        written = _answered(model, report["sources"], tokens)
    else:
        written = text_generation.generate(model, "", tokens, seeds=range(samples))
    return report | _copied(written, settings)


def _answered(model: Run, asked: list[str], tokens: int) -> list[text_generation.Sample]:
    call = text_generation.writer(model)
    return [
        text_generation.generate(model, source + "\n", tokens, seeds=[seed], call=call)[0]
        for seed, source in enumerate(asked)
    ]


def _copied(written: list[text_generation.Sample], settings: recipe.Corpus) -> dict[str, Any]:
    """What samples have from the training text."""
    texts = [sample.text for sample in written]
    longest = max(memorization.longest_copies(texts, _training(settings)), key=len)
    lines = [line for sample in written for line in memorization.whole_lines(_whole_lines(sample))]
    seen = memorization.lines_seen(lines, _training(settings))
    return {
        "texts": texts,
        "longest_copy": longest,
        "longest_copy_characters": len(longest),
        "lines": len(lines),
        "lines_seen_in_training": sum(line in seen for line in lines),
    }


def _whole_lines(sample: text_generation.Sample) -> str:
    """The text without the last line, unless it ends with a document: elsewhere it is cut."""
    return f"{sample.text}\n" if sample.finish_reason == "stop" else sample.text[: sample.text.rfind("\n") + 1]


def _training(settings: recipe.Corpus) -> Iterable[str]:
    """The training text; of pairs their targets."""
    texts = splits.pieces(settings, "train")
    if settings.is_pairs:
        texts = (target for _, target in map(task_metrics.split, texts))
    separator = "" if settings.documents == "stream" else "\n"
    return (text + separator for text in texts)


def show_tables(folder: Path, report: dict[str, Any]) -> None:
    """Print a report."""
    counts, loss = report["counts"], report["loss"]
    rows = [(name.replace("_", " "), f"{value:,.4f}") for name, value in loss.items()]
    rows += [(name, f"{counts[name]:,}") for name in ("documents", "tokens", "characters", "words", "unknown")]
    console.table(f"{folder}: {report['text']}", ("measure", "value"), rows)
    for name, figures in report.get("measures", {}).items():
        _show_figures(name, figures)
    if "samples" in report:
        _show_samples(report["samples"])


def _show_figures(name: str, figures: task_metrics.Figures) -> None:
    """A measure as a table; what is no number stands below it."""
    columns = [key for key, value in _cells(figures) if not isinstance(value, str)]
    columns = list(dict.fromkeys(columns))
    rows = [(row, *(_figure(values.get(column, "")) for column in columns)) for row, values in figures.items()]
    console.table(name.replace("_", " "), ("", *(column.replace("_", " ") for column in columns)), rows)
    for key, value in dict.fromkeys(cell for cell in _cells(figures) if isinstance(cell[1], str)):
        console.out.print(f"{key}: {value}", markup=False)


def _cells(figures: task_metrics.Figures) -> Iterator[tuple[str, Any]]:
    return (cell for values in figures.values() for cell in values.items())


def _figure(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _show_samples(samples: dict[str, Any]) -> None:
    share = f"{samples['lines_seen_in_training']} of {samples['lines']}"
    rows = [
        ("longest passage copied, characters", str(samples["longest_copy_characters"])),
        ("whole lines seen in training", share),
    ]
    console.table(f"{len(samples['texts'])} samples, against the training text", ("measure", "value"), rows)
    console.out.print(f"the longest copy: {samples['longest_copy']!r}", markup=False)
    for source, text in zip(samples.get("sources", []), samples["texts"], strict=False):
        console.out.print(f"{source!r} → {text!r}", markup=False)
