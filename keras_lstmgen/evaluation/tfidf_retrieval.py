"""Find the most similar text by TF-IDF and cosine similarity, a baseline that retrieves an answer without a model.

Source: Spärck Jones, "A Statistical Interpretation of Term Specificity and Its Application in Retrieval", 1972. The
document frequencies are smoothed as in scikit-learn.
"""

from collections.abc import Sequence

from keras_lstmgen.evaluation.text_metrics import words

MEMORY = 64  # MiB of similarities that are held at a time


def most_similar(texts: Sequence[str], queries: Sequence[str]) -> list[int]:
    """Return for each query the index of the text with the largest cosine similarity.

    The first of equally similar texts is returned. A query without a known word returns 0.

    Args:
        texts: the texts to search, at least one.
        queries: the queries.

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
