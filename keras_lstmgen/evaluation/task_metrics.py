"""The measures of a recipe's ``[evaluate]``, each beside what is trivial or true: a table of rows and figures each."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from keras_lstmgen.config import recipe
from keras_lstmgen.data import splits
from keras_lstmgen.evaluation import memorization, metrics, naive_bayes, ngram_model, quatrains, tfidf_retrieval
from keras_lstmgen.generation import batch_generation, beam_search
from keras_lstmgen.models.run_directory import Run

DRAWN = 500  # samples that a share is taken of (of each kind): its standard error is at most 2.3 %
Figures = dict[str, dict[str, Any]]  # rows of numbers by name


@dataclass(frozen=True)
class Task:
    """What there is to measure."""

    model: Run
    training: recipe.Corpus
    held_out: recipe.Corpus
    asked: recipe.Evaluate
    limit: int  # most tokens of an answer or a sample

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """All targets of each held-out source."""
        return by_source(splits.pieces(self.held_out, "validation"))

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        """The model's answers to these sources, in each way of finding them."""
        sources = list(self.references)
        found = {"greedy": batch_generation.greedy_answers(self.model, sources, self.limit)}
        if self.asked.beams:
            search = beam_search.BeamSearchConfig(self.asked.beams, self.asked.length_penalty, self.limit)
            found[f"{search.beams} beams"] = batch_generation.beam_search_answers(self.model, sources, search)
        return found

    @cached_property
    def of_the_most_similar(self) -> list[str]:
        """The target that training has to the source most similar to each of these sources."""
        targets = [target for _, target in _pairs(self)]
        known = tfidf_retrieval.index(source for source, _ in _pairs(self))
        return [targets[tfidf_retrieval.nearest(known, source)] for source in self.references]

    def against(self, measure: Callable[..., dict[str, Any]], **trivial: Sequence[str]) -> Figures:
        """A measure of the model's answers, and of trivial ones."""
        rows = self.answers | {name.replace("_", " "): list(found) for name, found in trivial.items()}
        return {name: measure(found, list(self.references.values())) for name, found in rows.items()}


def measured(task: Task) -> dict[str, Figures]:
    """All measures that are asked for."""
    return {name: MEASURES[name](task) for name in task.asked.measures}


def split(document: str) -> tuple[str, str]:
    """Source and target of a pair: the target is its last line."""
    source, _, target = document.rpartition("\n")
    return source, target


def by_source(documents: Iterable[str]) -> dict[str, list[str]]:
    """The distinct targets of each source, in order."""
    found: dict[str, list[str]] = {}
    for source, target in map(split, documents):
        known = found.setdefault(source, [])
        if target not in known:
            known.append(target)
    return found


def _bleu(task: Task) -> Figures:
    return task.against(metrics.bleu, target_of_the_most_similar_source=task.of_the_most_similar)


def _rouge(task: Task) -> Figures:
    targets = [known[0] for known in task.references.values()]
    return task.against(
        metrics.rouge,
        first_sentence_of_the_source=[metrics.first_sentence(source) for source in task.references],
        target_of_another_source=targets[-1:] + targets[:-1],
    )


def _exact_match(task: Task) -> Figures:
    ((frequent, _),) = Counter(target for _, target in _pairs(task)).most_common(1)
    return task.against(
        metrics.exact_match,
        most_frequent_target=[frequent] * len(task.references),
        target_of_the_most_similar_source=task.of_the_most_similar,
    )


def _pairs(task: Task) -> Iterator[tuple[str, str]]:
    return map(split, splits.pieces(task.training, "train"))


def _recall(task: Task) -> Figures:
    known = by_source(splits.pieces(task.training, "train"))
    found = batch_generation.greedy_answers(task.model, list(known), task.limit)
    return {"greedy": {"recall": metrics.recall(found, list(known.values())), "training_sources": len(known)}}


def _distinct_2(task: Task) -> Figures:
    targets = [known[0] for known in task.references.values()]
    rows = task.answers | {"targets": targets}
    return {name: {"distinct_2": metrics.distinct_2(found)} for name, found in rows.items()}


def _kind(task: Task) -> Figures:
    judge, figures = naive_bayes.judge(_pairs(task)), Figures()
    held_out = by_source(splits.pieces(task.held_out, "validation"))
    drawn = batch_generation.samples_per_source(
        task.model, list(dict.fromkeys(task.training.labels)), DRAWN, task.limit
    )
    seen = _seen(task, drawn)
    for kind, texts in drawn.items():
        figures[f"{kind}, generated"] = _judged(judge, kind, texts) | {"in_training": seen[kind]}
        figures[f"{kind}, held out"] = _judged(judge, kind, held_out.get(kind, []))
    return figures


def _judged(judge: naive_bayes.Judge, kind: str, texts: list[str]) -> dict[str, Any]:
    right = sum(naive_bayes.kind(judge, text) == kind for text in texts)
    return {"texts": len(texts), "of_the_kind": right / max(len(texts), 1)}


def _seen(task: Task, samples: dict[str, list[str]]) -> dict[str, float]:
    """Return by name the share of texts whose lines stand whole in training, which is read once for all."""
    documents = (split(text)[1] + "\n" for text in splits.pieces(task.training, "train"))
    lines = {
        name: [line for text in texts for line in memorization.whole_lines(f"{text}\n")]
        for name, texts in samples.items()
    }
    seen = memorization.lines_seen(chain.from_iterable(lines.values()), documents)
    return {name: sum(line in seen for line in found) / max(len(found), 1) for name, found in lines.items()}


def _verses(task: Task) -> Figures:
    classes = quatrains.rhymes(target for _, target in _pairs(task))
    held_out = [split(text)[1] for text in splits.pieces(task.held_out, "validation")]
    label = "".join(task.training.labels[:1])
    drawn = batch_generation.samples_per_source(task.model, [label], DRAWN, task.limit)
    form = {"poems": len(drawn[label])} | quatrains.form(drawn[label], classes)
    return {
        "generated": form | {"in_training": _seen(task, drawn)[label]},
        "held out": {"poems": len(held_out)} | quatrains.form(held_out, classes),
        "held out, ends paired by chance": {"rhyming": quatrains.by_chance(held_out, classes)},
        "rhyme table": {"characters": len(classes), "rhymes": len(set(classes.values()))},
    }


def _ngram(task: Task) -> Figures:
    counts = ngram_model.counted(splits.pieces(task.training, "train"))
    found = ngram_model.nats(counts, splits.pieces(task.held_out, "validation"))
    return {f"up to {n} characters": {"nats_per_character": nats} for n, nats in enumerate(found, 1)}


MEASURES: dict[str, Callable[[Task], Figures]] = {
    "bleu": _bleu, "rouge": _rouge, "exact_match": _exact_match, "recall": _recall, "distinct_2": _distinct_2,
    "kind": _kind, "verses": _verses, "ngram": _ngram,
}  # fmt: skip
