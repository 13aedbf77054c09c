"""Evaluate a run.

The report contains the loss on held-out text, the measures that the recipe of the run selects, and the passages of
generated samples that also occur in the training text.
"""

import tempfile
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, prepared_corpus, sources, splits
from keras_lstmgen.data.token_cache import encode_split
from keras_lstmgen.evaluation import likelihood, memorization, metric_registry
from keras_lstmgen.evaluation.task import Task, split
from keras_lstmgen.files import filenames
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.utils.errors import UserError


def evaluate(
    run: Run, texts: list[str], samples: int, sample_tokens: int, options: recipe.Evaluate | None = None
) -> dict[str, Any]:
    """Evaluate a run on text and on samples that it generates.

    Args:
        run: the run.
        texts: names of the texts on which the loss is computed. If empty, the held-out text of the run is used.
        samples: number of samples to generate and compare with the training text.
        sample_tokens: maximum number of tokens in a sample or an answer.
        options: the measures to compute in addition to the loss. By default, the recipe of the run selects them.

    Returns:
        A report of values that JSON can represent. Its keys are ``text`` (name of the evaluated text), ``counts`` and
        ``loss``. The report also has the key ``samples`` if ``samples`` is not 0, and the key ``measures`` if
        ``options`` selects a measure.

    Raises:
        UserError: if a text or an optional package is missing.
    """
    options = options or run.recipe.evaluate
    training = prepared_corpus.source_corpus(run.recipe.corpus)
    _check(training, texts, samples, options)
    held_out = splits.with_validation_texts(training, texts)
    name = ", ".join(map(filenames.stored, texts)) or f"{splits.validation_kind(training)} of the run"
    report = {"text": name, **_loss_report(run, held_out)}
    if samples:
        report["samples"] = _samples_report(run, training, held_out, samples, sample_tokens)
    if options.measures:
        report["measures"] = metric_registry.compute(Task(run, training, held_out, options, sample_tokens))
    return report


def _check(training: recipe.Corpus, texts: Sequence[str], samples: int, options: recipe.Evaluate) -> None:
    """Raise UserError if an optional package or a text is missing, before the evaluation begins."""
    for name in options.measures:
        metric_registry.check_packages(name)
    of_training = [name for name in options.measures if metric_registry.MEASURES[name].reads_training]
    reads_source = bool(samples or of_training or not (texts or training.validation))
    try:
        if reads_source:
            sources.resolve(training)
        if training.validation and not texts:
            splits.validation_sources(training)
    except UserError as error:
        raise UserError(f"{error}; without it: {_alternatives(texts, samples, of_training)}") from error


def _alternatives(texts: Sequence[str], samples: int, of_training: Sequence[str]) -> str:
    """Return advice on how to evaluate a run without the missing text."""
    changes = [] if texts else ["name a text to evaluate on"]
    changes += ["give --samples 0"] if samples else []
    changes += [f"give --evaluate.measures without {', '.join(of_training)}"] if of_training else []
    return " and ".join(changes)


def _loss_report(run: Run, held_out: recipe.Corpus) -> dict[str, Any]:
    """Encode the held-out text and return its counts and its loss.

    As in training, the LSTM state is either carried over the whole text or reset at the start of each example.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.ids"
        counts, _ = encode_split(held_out, "validation", run.tokenizer, path, "<i4")
        ids = np.memmap(path, "<i4", "r")
        if len(ids) < 2:
            names = ", ".join(held_out.validation or held_out.source)
            raise UserError(f"{names}: has no token to predict; give a longer text")
        examples_loss = _pairs_loss if held_out.is_pairs else _documents_loss
        loss = (_stream_loss if run.recipe.carries else examples_loss)(run, counts, ids)
        return {"counts": counts, "loss": loss}


def _stream_loss(run: Run, counts: dict[str, int], ids: NDArray[Any]) -> dict[str, float]:
    """Compute the loss of a stream.

    The LSTM state is carried over the whole text. The first token is not scored.
    """
    counts = likelihood.without_first_token(counts, int(ids[0]), run.tokenizer)
    score = likelihood.scorer(run.weights)
    with reporter.progress("held-out text", len(ids) - 1) as on_progress:
        nll = likelihood.stream_nll(run.weights, ids, score=score, on_progress=on_progress)
    loss = likelihood.loss_in_units(nll, counts)
    with reporter.status("computing the loss of windows from a zero state"):
        loss["nats_per_token_fresh_windows"] = likelihood.windows_cross_entropy(run.weights, ids, score=score)
    return loss


def _documents_loss(run: Run, counts: dict[str, int], ids: NDArray[Any]) -> dict[str, float]:
    """Compute the loss of documents.

    The LSTM state is reset to zero at the start of each document. Start symbols are not scored.
    """
    documents = example_batches.find_documents(ids)
    nll = _examples_nll(run, documents, likelihood.scorer(run.weights), "documents")
    return likelihood.loss_in_units(nll, counts | {"tokens": example_batches.target_tokens(documents)})


def _pairs_loss(run: Run, counts: dict[str, int], ids: NDArray[Any]) -> dict[str, float]:
    """Compute the loss of targets twice: given their own sources, and given the sources of other pairs."""
    pairs, score = example_batches.find_pairs(ids), likelihood.scorer(run.weights)
    nll = _examples_nll(run, pairs, score, "targets")
    shuffled_nll = _examples_nll(run, example_batches.with_other_sources(pairs), score, "targets")
    loss = likelihood.loss_in_units(nll, counts)
    loss["nats_per_token_behind_another_source"] = shuffled_nll / counts["tokens"]
    loss["gain_of_the_right_source"] = (shuffled_nll - nll) / counts["tokens"]
    return loss


def _examples_nll(run: Run, examples: example_batches.Examples, score: likelihood.Scorer, name: str) -> float:
    """Compute the negative log-likelihood of examples in nats, and report the progress under a name."""
    with reporter.progress(name, example_batches.count(examples)) as on_progress:
        return likelihood.examples_nll(run.weights, examples, score, on_progress)


def _samples_report(
    run: Run, training: recipe.Corpus, held_out: recipe.Corpus, samples: int, max_new_tokens: int
) -> dict[str, Any]:
    """Generate samples with default options and the seeds 0, 1, 2, …, and compare them with the training text.

    If the run was trained on pairs, the samples are answers to the first held-out sources. The answers are compared
    with the targets of the training pairs.
    """
    if not training.is_pairs:
        texts = Generator(run).generate("", GenerationConfig(max_new_tokens), seeds=range(samples))
        return _copies_report(texts, training)
    held_out_sources = dict.fromkeys(source for source, _ in map(split, splits.pieces(held_out, "validation")))
    prompts = list(islice(cycle(held_out_sources), samples))
    return {"sources": prompts, **_copies_report(_answers(run, prompts, max_new_tokens), training)}


def _answers(run: Run, prompts: list[str], max_new_tokens: int) -> list[Sample]:
    """Generate an answer to each source, with the index of the source as the seed."""
    generator = Generator(run)
    return [
        generator.generate(source + "\n", GenerationConfig(max_new_tokens), seeds=[seed])[0]
        for seed, source in enumerate(prompts)
    ]


def _copies_report(samples: list[Sample], training: recipe.Corpus) -> dict[str, Any]:
    """Compare samples with the training text.

    Returns:
        A dictionary with the texts of the samples, the longest passage of a sample that occurs in the training text,
        the length of this passage in characters, the number of complete lines, and the number of complete lines that
        occur in the training text.
    """
    texts = [sample.text for sample in samples]
    longest = max(memorization.longest_copies(texts, _training_texts(training)), key=len)
    lines = [line for sample in samples for line in memorization.whole_lines(_without_cut_line(sample))]
    lines_seen = memorization.lines_seen(lines, _training_texts(training))
    return {
        "texts": texts,
        "longest_copy": longest,
        "longest_copy_characters": len(longest),
        "lines": len(lines),
        "lines_seen_in_training": sum(line in lines_seen for line in lines),
    }


def _without_cut_line(sample: Sample) -> str:
    """Remove the last line of a sample, unless an end symbol shows that the line is complete.

    If the line is complete, add a newline, because ``memorization.whole_lines`` ignores a last line without a newline.
    """
    return f"{sample.text}\n" if sample.finish_reason == "stop" else sample.text[: sample.text.rfind("\n") + 1]


def _training_texts(training: recipe.Corpus) -> Iterable[str]:
    """Yield the training text, or only the targets if the corpus consists of pairs."""
    texts = splits.pieces(training, "train")
    if training.is_pairs:
        texts = (target for _, target in map(split, texts))
    separator = "" if training.documents == "stream" else "\n"
    return (text + separator for text in texts)
