"""Find the most similar text by the cosine similarity of TF-IDF vectors.

The search serves as a baseline without a neural network: the target of the most similar training source is the answer.

Source: Spärck Jones, "A Statistical Interpretation of Term Specificity and Its Application in Retrieval", 1972.
"""

from collections.abc import Sequence

from keras_lstmgen.evaluation.text_metrics import words

MEMORY = 64  # maximum memory for similarities in MiB


def most_similar(texts: Sequence[str], queries: Sequence[str]) -> list[int]:
    """For each query, return the index of the text with the largest cosine similarity.

    If several texts are equally similar, the index of the first one is returned. If a query has no word in common with
    any text, the index 0 is returned.

    Args:
        texts: the texts to search. At least one is required.
        queries: the texts for which the most similar text is searched.

    >>> from keras_lstmgen.evaluation.tfidf_retrieval import most_similar
    >>> most_similar(["Who wrote Hamlet?", "Where is Paris?"], ["Who wrote Faust?", "Is Paris in France?"])
    [0, 1]
    """
    from sklearn import config_context
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import pairwise_distances_argmin

    if not queries or not any(map(words, texts)):
        return [0] * len(queries)
    vectorizer = TfidfVectorizer(analyzer=words)
    vectors = vectorizer.fit_transform(texts)
    with config_context(working_memory=MEMORY):
        return [int(i) for i in pairwise_distances_argmin(vectorizer.transform(queries), vectors, metric="cosine")]
