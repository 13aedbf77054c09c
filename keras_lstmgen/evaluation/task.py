"""Define the input of a measure: a run, its texts, and the answers that the run generates once for all measures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from keras_lstmgen.config import recipe
from keras_lstmgen.data import splits
from keras_lstmgen.evaluation import memorization, tfidf_retrieval
from keras_lstmgen.generation import batch_generation, beam_search
from keras_lstmgen.models.run_directory import Run

# Number of samples for each label. With 500 samples, the standard error of a share is at most 2.3 percentage points.
SAMPLES = 500
Figures = dict[str, dict[str, Any]]  # a table: maps the name of each row to its values by column name


@dataclass(frozen=True)
class Task:
    """A run, and the texts on which measures are computed.

    Attributes:
        run: the run.
        training: the corpus on which the run was trained.
        held_out: a corpus whose validation split contains the held-out text.
        options: the table ``evaluate`` of the recipe.
        max_new_tokens: maximum number of tokens in an answer or a sample.
    """

    run: Run
    training: recipe.Corpus
    held_out: recipe.Corpus
    options: recipe.Evaluate
    max_new_tokens: int

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Distinct targets of each held-out source."""
        return by_source(splits.pieces(self.held_out, "validation"))

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        """Answers of the model to all held-out sources, with greedy decoding and, if requested, with beam search."""
        sources = list(self.references)
        answers = {"greedy": batch_generation.greedy_answers(self.run, sources, self.max_new_tokens)}
        if self.options.beams:
            search = beam_search.BeamSearchConfig(self.options.beams, self.options.length_penalty, self.max_new_tokens)
            answers[f"{search.beams} beams"] = batch_generation.beam_search_answers(self.run, sources, search)
        return answers

    @cached_property
    def retrieved_targets(self) -> list[str]:
        """Baseline answers: for each held-out source, the target of the most similar training source."""
        pairs = list(self.training_pairs())
        nearest = tfidf_retrieval.most_similar([source for source, _ in pairs], list(self.references))
        return [pairs[number][1] for number in nearest]

    def training_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the source and the target of each training pair."""
        return map(split, splits.pieces(self.training, "train"))

    def compare(self, measure: Callable[..., dict[str, Any]], **baselines: Sequence[str]) -> Figures:
        """Apply a measure to the answers of the model and to the answers of baselines.

        Args:
            measure: function that takes answers and references, and returns the values of a row.
            baselines: answers of each baseline. Underscores in the name of a baseline become spaces in the table.

        Returns:
            A table with a row for each decoding method and each baseline.
        """
        answers = self.answers | {name.replace("_", " "): list(texts) for name, texts in baselines.items()}
        return {name: measure(texts, list(self.references.values())) for name, texts in answers.items()}

    def samples(self, labels: Sequence[str]) -> dict[str, list[str]]:
        """Generate ``SAMPLES`` texts for each label, and return them by label."""
        return batch_generation.samples_per_source(self.run, labels, SAMPLES, self.max_new_tokens)

    def shares_in_training(self, samples: dict[str, list[str]]) -> dict[str, float]:
        """For each group of texts, return the share of its lines that occur as whole lines in the training text.

        Args:
            samples: maps the name of each group to its texts.

        Returns:
            A dictionary that maps the name of each group to its share, a number from 0 to 1.
        """
        targets = (f"{target}\n" for _, target in self.training_pairs())
        lines = {
            name: [line for text in texts for line in memorization.whole_lines(f"{text}\n")]
            for name, texts in samples.items()
        }
        seen = memorization.lines_seen(chain.from_iterable(lines.values()), targets)
        return {name: sum(line in seen for line in own) / max(len(own), 1) for name, own in lines.items()}


def split(document: str) -> tuple[str, str]:
    r"""Split a pair into its source and its target. The target is the last line.

    >>> from keras_lstmgen.evaluation.task import split
    >>> split("first turn\nsecond turn\nanswer")
    ('first turn\nsecond turn', 'answer')
    """
    source, _, target = document.rpartition("\n")
    return source, target


def by_source(documents: Iterable[str]) -> dict[str, list[str]]:
    r"""For each source, return its distinct targets in the order of the documents.

    >>> from keras_lstmgen.evaluation.task import by_source
    >>> by_source(["hi\nhello", "bye\nsee you", "hi\ngood day", "hi\nhello"])
    {'hi': ['hello', 'good day'], 'bye': ['see you']}
    """
    targets: dict[str, dict[str, None]] = {}
    for source, target in map(split, documents):
        targets.setdefault(source, {})[target] = None
    return {source: list(distinct) for source, distinct in targets.items()}
