"""The report on a run: its loss on held-out text in every unit, and how much of its samples is copied."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstmgen import corpus, evaluation, generation, prepared, recipe, show, sources
from keras_lstmgen.encoding import encode_split
from keras_lstmgen.errors import UserError
from keras_lstmgen.run import Run


def evaluate(model: Run, texts: list[str], samples: int, sample_tokens: int) -> dict[str, Any]:
    """Measure ``model`` on ``texts`` (none: the run's held-out text), and on what it writes itself."""
    settings = prepared.text(recipe.parse(model.metadata.recipe).corpus)
    if samples:
        _check_training_text(settings)
    report: dict[str, Any] = {"text": ", ".join(texts) or "held-out part of the corpus"}
    report |= _on_text(model, replace(settings, validation=tuple(texts)) if texts else settings)
    if samples:
        report["samples"] = _on_samples(model, settings, samples, sample_tokens)
    return report


def _check_training_text(settings: recipe.Corpus) -> None:
    """Find out before the measuring, not after it, that samples cannot be looked up: a run may have been moved."""
    try:
        sources.resolve(settings)
    except UserError as error:
        raise UserError(f"{error}; --samples 0 does without the training text") from error


def _on_text(model: Run, settings: recipe.Corpus) -> dict[str, Any]:
    """The loss of a whole text, as one stream with the state carried; the first token has nothing before it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.ids"
        counts, _ = encode_split(settings, "validation", model.tokenizer, path, "<i4")
        ids = np.memmap(path, "<i4", "r")
        if len(ids) < 2:
            raise UserError(f"{_name(settings)}: has no token to predict; give a longer text")
        loss = evaluation.measures(_nats(model, ids), _scored(counts, ids, model))
        with show.out.status("windows read from an empty state"):
            loss["nats_per_token_fresh_windows"] = evaluation.fresh_nats(model.weights, ids)
        return {"counts": counts, "loss": loss}


def _name(settings: recipe.Corpus) -> str:
    return ", ".join(settings.validation or settings.source)


def _nats(model: Run, ids: np.ndarray[Any, Any]) -> float:
    with show.progress_bar() as bar:
        task = bar.add_task("held-out text", total=len(ids) - 1, figures="")
        return evaluation.total_nats(model.weights, ids, advance=lambda tokens: bar.advance(task, tokens))


def _scored(counts: dict[str, int], ids: np.ndarray[Any, Any], model: Run) -> dict[str, int]:
    """The counts without the first token, which is read but not predicted."""
    first = model.tokenizer.piece_bytes(int(ids[0]))
    return {
        "tokens": len(ids) - 1,
        "characters": counts["characters"] - len(first.decode("utf-8", "ignore")),
        "bytes": counts["bytes"] - len(first),
        "words": counts["words"],
    }


def _on_samples(model: Run, settings: recipe.Corpus, samples: int, tokens: int) -> dict[str, Any]:
    """What the first samples have from the training text; they are written with neutral options, seeds 0, 1, …"""
    written = generation.generate(model, "", tokens, seeds=range(samples))
    texts = [sample.text for sample in written]
    copies = [evaluation.longest_copy(text, _training(settings)) for text in texts]
    seen, lines = evaluation.seen_lines("".join(map(_whole_lines, written)), _training(settings))
    longest = max(copies, key=len)
    return {
        "texts": texts,
        "longest_copy": longest,
        "longest_copy_characters": len(longest),
        "lines": lines,
        "lines_seen_in_training": seen,
    }


def _whole_lines(sample: generation.Sample) -> str:
    """The text without the last line, unless it ends with a document: elsewhere it is cut."""
    return f"{sample.text}\n" if sample.finish_reason == "stop" else sample.text[: sample.text.rfind("\n") + 1]


def _training(settings: recipe.Corpus) -> Iterable[str]:
    separator = "" if settings.documents == "stream" else "\n"
    return (piece + separator for piece in corpus.pieces(settings, "train"))


def show_tables(folder: Path, report: dict[str, Any]) -> None:
    """Print a report."""
    counts, loss = report["counts"], report["loss"]
    rows = [(name.replace("_", " "), f"{value:,.4f}") for name, value in loss.items()]
    rows += [(name, f"{counts[name]:,}") for name in ("tokens", "characters", "words", "unknown")]
    show.table(f"{folder}: {report['text']}", ("measure", "value"), rows)
    if "samples" in report:
        samples = report["samples"]
        share = f"{samples['lines_seen_in_training']} of {samples['lines']}"
        rows = [
            ("longest passage copied, characters", str(samples["longest_copy_characters"])),
            ("whole lines seen in training", share),
        ]
        show.table(f"{len(samples['texts'])} samples, against the training text", ("measure", "value"), rows)
        show.out.print(f"the longest copy: {samples['longest_copy']!r}", markup=False)
