"""Compute the measures that several recipes use, and the baselines of these measures.

``metric_registry`` registers these measures by name. Each function takes a ``Task`` and returns a table.
"""

from collections import Counter
from typing import Any

from keras_lstmgen.data import splits
from keras_lstmgen.evaluation import naive_bayes, ngram_model, text_metrics
from keras_lstmgen.evaluation.task import Figures, Task, by_source
from keras_lstmgen.generation import batch_generation


def bleu(task: Task) -> Figures:
    """Compute BLEU of the answers and of a baseline.

    The answer of the baseline is the target of the most similar training source.
    """
    return task.compare(text_metrics.bleu, target_of_the_most_similar_source=task.retrieved_targets)


def rouge(task: Task) -> Figures:
    """Compute ROUGE of the answers and of two baselines.

    The answer of the first baseline is the first sentence of the source. The answer of the second baseline is a target
    of another held-out source.
    """
    targets = [known[0] for known in task.references.values()]
    return task.compare(
        text_metrics.rouge,
        first_sentence_of_the_source=[text_metrics.first_sentence(source) for source in task.references],
        target_of_another_source=targets[-1:] + targets[:-1],
    )


def exact_match(task: Task) -> Figures:
    """Compute exact match and F1 of the answers and of two baselines.

    The answer of the first baseline is the most frequent training target. The answer of the second baseline is the
    target of the most similar training source.
    """
    ((most_frequent, _),) = Counter(target for _, target in task.training_pairs()).most_common(1)
    return task.compare(
        text_metrics.exact_match,
        most_frequent_target=[most_frequent] * len(task.references),
        target_of_the_most_similar_source=task.retrieved_targets,
    )


def recall(task: Task) -> Figures:
    """Compute the share of training sources that the model answers with one of their own targets."""
    references = by_source(splits.pieces(task.training, "train"))
    answers = batch_generation.greedy_answers(task.run, list(references), task.max_new_tokens)
    share = text_metrics.recall(answers, list(references.values()))
    return {"greedy": {"recall": share, "training_sources": len(references)}}


def distinct_2(task: Task) -> Figures:
    """Compute the shares of distinct word bigrams in the answers and, for comparison, in the targets."""
    targets = [known[0] for known in task.references.values()]
    texts = task.answers | {"targets": targets}
    return {name: {"distinct_2": text_metrics.distinct_2(answers)} for name, answers in texts.items()}


def kind(task: Task) -> Figures:
    """For each label, compute the share of its generated texts that a naive Bayes classifier assigns to the label.

    For comparison, the same share is computed for the held-out documents of the label. The column ``in_training``
    contains the share of generated lines that occur in the training text.
    """
    classifier, figures = naive_bayes.train(task.training_pairs()), Figures()
    samples = task.samples(list(dict.fromkeys(task.training.labels)))
    shares_in_training = task.shares_in_training(samples)
    for label, texts in samples.items():
        generated = _classified(classifier, label, texts)
        figures[f"{label}, generated"] = generated | {"in_training": shares_in_training[label]}
        figures[f"{label}, held out"] = _classified(classifier, label, task.references.get(label, []))
    return figures


def _classified(classifier: naive_bayes.Classifier, label: str, texts: list[str]) -> dict[str, Any]:
    """Return the number of texts, and the share of texts that the classifier assigns to the label."""
    correct = sum(predicted == label for predicted in naive_bayes.predict(classifier, texts))
    return {"texts": len(texts), "of_the_kind": correct / max(len(texts), 1)}


def ngram(task: Task) -> Figures:
    """Compute the cross entropy of the held-out text under character n-gram models with n = 1, 2, …, 8."""
    counts = ngram_model.count(splits.pieces(task.training, "train"))
    losses = ngram_model.cross_entropy(counts, splits.pieces(task.held_out, "validation"))
    return {f"up to {n} characters": {"nats_per_character": loss} for n, loss in enumerate(losses, 1)}
