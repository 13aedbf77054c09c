"""The input of a measure: a run, its texts, and the answers that the measures share."""

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

SAMPLES = 500  # samples for each label; the standard error of a share is then at most 2.3 percentage points
Figures = dict[str, dict[str, Any]]  # rows of a table by name; a row maps column names to numbers or texts


@dataclass(frozen=True)
class Task:
    """A run and the texts that a measure compares."""

    run: Run
    training: recipe.Corpus
    held_out: recipe.Corpus
    options: recipe.Evaluate
    max_new_tokens: int  # maximum number of tokens of an answer or a sample

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """All targets of each held-out source."""
        return by_source(splits.pieces(self.held_out, "validation"))

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        """The answers of the model to the held-out sources, for greedy decoding and if requested for beam search."""
        sources = list(self.references)
        answers = {"greedy": batch_generation.greedy_answers(self.run, sources, self.max_new_tokens)}
        if self.options.beams:
            search = beam_search.BeamSearchConfig(self.options.beams, self.options.length_penalty, self.max_new_tokens)
            answers[f"{search.beams} beams"] = batch_generation.beam_search_answers(self.run, sources, search)
        return answers

    @cached_property
    def retrieved_targets(self) -> list[str]:
        """For each held-out source, the target of the most similar training source."""
        pairs = list(self.training_pairs())
        nearest = tfidf_retrieval.most_similar([source for source, _ in pairs], list(self.references))
        return [pairs[number][1] for number in nearest]

    def training_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield source and target of all training pairs."""
        return map(split, splits.pieces(self.training, "train"))

    def compare(self, measure: Callable[..., dict[str, Any]], **baselines: Sequence[str]) -> Figures:
        """Apply a measure to the answers of the model and to those of baselines.

        Args:
            measure: a function of answers and references.
            baselines: answers of each baseline by name, with underscores for spaces.
        """
        answers = self.answers | {name.replace("_", " "): list(texts) for name, texts in baselines.items()}
        return {name: measure(texts, list(self.references.values())) for name, texts in answers.items()}

    def samples(self, labels: Sequence[str]) -> dict[str, list[str]]:
        """Generate ``SAMPLES`` texts for each label."""
        return batch_generation.samples_per_source(self.run, labels, SAMPLES, self.max_new_tokens)

    def shares_in_training(self, samples: dict[str, list[str]]) -> dict[str, float]:
        """Return for each name the share of the lines of its texts that occur as whole lines in the training text.

        Args:
            samples: texts by name.
        """
        targets = (f"{target}\n" for _, target in self.training_pairs())
        lines = {
            name: [line for text in texts for line in memorization.whole_lines(f"{text}\n")]
            for name, texts in samples.items()
        }
        seen = memorization.lines_seen(chain.from_iterable(lines.values()), targets)
        return {name: sum(line in seen for line in own) / max(len(own), 1) for name, own in lines.items()}


def split(document: str) -> tuple[str, str]:
    r"""Split a pair into source and target; the target is the last line.

    >>> from keras_lstmgen.evaluation.task import split
    >>> split("first turn\nsecond turn\nanswer")
    ('first turn\nsecond turn', 'answer')
    """
    source, _, target = document.rpartition("\n")
    return source, target


def by_source(documents: Iterable[str]) -> dict[str, list[str]]:
    r"""Return the distinct targets of each source in their order.

    >>> from keras_lstmgen.evaluation.task import by_source
    >>> by_source(["hi\nhello", "bye\nsee you", "hi\ngood day", "hi\nhello"])
    {'hi': ['hello', 'good day'], 'bye': ['see you']}
    """
    targets: dict[str, dict[str, None]] = {}
    for source, target in map(split, documents):
        targets.setdefault(source, {})[target] = None
    return {source: list(distinct) for source, distinct in targets.items()}
