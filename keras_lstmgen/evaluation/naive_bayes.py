"""Train a naive Bayes classifier and predict the label of a text.

If the model generated a text for a label, the classifier shows whether the text is typical of this label. The
classifier is a multinomial naive Bayes classifier with Laplace smoothing. Its features are words and word bigrams.

Source: McCallum and Nigam, "A Comparison of Event Models for Naive Bayes Text Classification", 1998.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.evaluation.text_metrics import words
from keras_lstmgen.utils.errors import UserError


class Classifier(NamedTuple):
    """A trained classifier."""

    vectorizer: Any  # sklearn.feature_extraction.text.CountVectorizer
    model: Any  # sklearn.naive_bayes.MultinomialNB


def train(documents: Iterable[tuple[str, str]]) -> Classifier:
    """Train a classifier.

    Args:
        documents: pairs of a label and a text. The pairs are read once.

    Raises:
        UserError: if the texts contain no words.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    labels: list[str] = []

    def read() -> Iterator[list[str]]:
        for label, text in documents:
            labels.append(label)
            yield features(text)

    vectorizer = CountVectorizer(analyzer=iter)  # each document is already a list of features
    try:
        counts = vectorizer.fit_transform(read())
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"evaluate.measures: 'kind' needs words in the training text ({error})") from error
    return Classifier(vectorizer, MultinomialNB(alpha=1.0).fit(counts, labels))


def features(text: str) -> list[str]:
    """Return the features of a text: its words and its word bigrams.

    >>> from keras_lstmgen.evaluation.naive_bayes import features
    >>> features("New York")
    ['new', 'york', 'new york']
    """
    unigrams = words(text)
    return unigrams + [" ".join(bigram) for bigram in pairwise(unigrams)]


def predict(classifier: Classifier, texts: Sequence[str]) -> list[str]:
    """For each text, return the most likely label.

    If several labels are equally likely, the first one in alphabetical order is returned.
    """
    if not texts:
        return []
    best = joint_log_likelihood(classifier, texts).argmax(axis=1)
    return [str(label) for label in classifier.model.classes_[best]]


def joint_log_likelihood(classifier: Classifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """For each text and each label, compute ln P(label) + ln P(text | label).

    If a feature does not occur in the training text, this function uses a count of zero for the feature. scikit-learn
    would ignore the feature.

    Args:
        classifier: a classifier with K labels.
        texts: N texts.

    Returns:
        A float64 array of shape [N, K].
    """
    of_texts = [features(text) for text in texts]
    counts = classifier.vectorizer.transform(of_texts)
    unknown = np.array([len(found) for found in of_texts]) - np.asarray(counts.sum(axis=1)).ravel()
    totals = classifier.model.feature_count_.sum(axis=1) + counts.shape[1]  # [K], smoothed number of features per label
    scores = classifier.model.predict_joint_log_proba(counts) - np.outer(unknown, np.log(totals))
    return np.asarray(scores, np.float64)
