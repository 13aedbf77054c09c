"""Compute metrics of generated answers: BLEU, ROUGE, exact match, F1, recall and distinct bigrams.

All metrics are numbers from 0 to 1, except BLEU, which is a number from 0 to 100 as in sacrebleu.
"""

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from keras_lstmgen.utils.optional_packages import import_optional

# Maps the name of a metric in the report to its name in the package rouge-score.
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")  # a Chinese character, or a word of letters and digits
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|(?<=[。！？])")
ARTICLES = re.compile(r"\b(a|an|the)\b")
References = Sequence[Collection[str]]  # all targets of each source


def bleu(answers: Sequence[str], references: References) -> dict[str, Any]:
    """Compute corpus BLEU with sacrebleu and its default tokenizer.

    Sources: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002; Post, "A Call for
    Clarity in Reporting BLEU Scores", 2018.

    Args:
        answers: one answer for each source.
        references: all targets of each source.

    Returns:
        A dictionary with two keys: ``bleu`` is the score from 0 to 100, and ``signature`` is a string that describes
        the settings of sacrebleu.

    Raises:
        UserError: if sacrebleu is not installed.
    """
    metric = import_optional("sacrebleu.metrics.bleu", "bleu").BLEU()
    # Each list contains one reference for each answer, or None if the source of the answer has fewer targets.
    streams = [list(stream) for stream in zip_longest(*references)]
    score = metric.corpus_score(list(answers), streams).score
    return {"bleu": float(score), "signature": str(metric.get_signature())}


def rouge(answers: Sequence[str], references: References) -> dict[str, float]:
    """Compute the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L with rouge-score.

    Each answer is compared with the target that gives the highest score. The tokenizer of rouge-score ignores all
    characters except digits and the letters a to z.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.

    Args:
        answers: one answer for each source.
        references: all targets of each source.

    Returns:
        The mean F1 from 0 to 1 of ``rouge_1``, ``rouge_2`` and ``rouge_l``.

    Raises:
        UserError: if rouge-score is not installed.
    """
    scorer = import_optional("rouge_score.rouge_scorer", "rouge").RougeScorer(list(ROUGE.values()), use_stemmer=True)
    scores = [scorer.score_multi(list(targets), answer) for answer, targets in zip(answers, references, strict=True)]
    return {name: _mean(score[kind].fmeasure for score in scores) for name, kind in ROUGE.items()}


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, as a baseline for summaries.

    >>> from keras_lstmgen.evaluation.text_metrics import first_sentence
    >>> first_sentence("It is 3.5 % better. It wins.")
    'It is 3.5 % better.'
    """
    return SENTENCE.split(text.strip(), maxsplit=1)[0]


def exact_match(answers: Sequence[str], references: References) -> dict[str, float]:
    """Compute the share of answers that equal one of their targets, and the mean F1 of the answers.

    F1 compares the words of an answer with the words of the target that gives the highest score. Answers and targets
    are normalized before they are compared.

    Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016.

    Args:
        answers: one answer for each source.
        references: all targets of each source.

    >>> from keras_lstmgen.evaluation.text_metrics import exact_match
    >>> exact_match(["The Beatles!", "John Lennon"], [["Beatles"], ["Lennon", "Paul"]])
    {'exact_match': 0.5, 'f1': 0.8333333333333333}
    """
    scores = [_match(answer, targets) for answer, targets in zip(answers, references, strict=True)]
    return {"exact_match": _mean(exact for exact, _ in scores), "f1": _mean(f1 for _, f1 in scores)}


def _match(answer: str, targets: Collection[str]) -> tuple[bool, float]:
    """Return whether an answer equals one of its targets, and the highest F1 of the answer with a target."""
    answer, targets = normalized(answer), [normalized(target) for target in targets]
    counts = Counter(answer.split())
    return answer in targets, max(_f1(counts, Counter(target.split())) for target in targets)


def normalized(text: str) -> str:
    """Normalize an answer in the same way as the evaluation of SQuAD.

    The text is converted to lower case. ASCII punctuation, articles and repeated spaces are removed.

    >>> from keras_lstmgen.evaluation.text_metrics import normalized
    >>> normalized("  The U.S.A., an  Area")
    'usa area'
    """
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", letters).split())


def _f1(answer: Counter[str], target: Counter[str]) -> float:
    """Return the harmonic mean of precision and recall of the words of an answer, or 1 if both texts have no words."""
    if not answer or not target:
        return float(answer == target)
    return 2 * (answer & target).total() / (answer.total() + target.total())


def recall(answers: Sequence[str], references: References) -> float:
    """Return the share of answers that equal one of their targets without normalization.

    >>> from keras_lstmgen.evaluation.text_metrics import recall
    >>> recall(["Fine.", "fine."], [["Well.", "Fine."], ["Fine."]])
    0.5
    """
    return _mean(answer in targets for answer, targets in zip(answers, references, strict=True))


def distinct_2(texts: Iterable[str]) -> float:
    """Return the number of distinct word bigrams divided by the number of all word bigrams.

    The result is 0 if the texts have no bigrams.

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016.

    >>> from keras_lstmgen.evaluation.text_metrics import distinct_2
    >>> distinct_2(["I do not know.", "I do not", "yes"])
    0.6
    """
    bigrams = [bigram for text in texts for bigram in pairwise(words(text))]
    return len(set(bigrams)) / max(len(bigrams), 1)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation. Each Chinese character is a word.

    >>> from keras_lstmgen.evaluation.text_metrics import words
    >>> words("It's 明月!")
    ['it', 's', '明', '月']
    """
    return WORD.findall(text.lower())


def _mean(numbers: Iterable[float]) -> float:
    """Return the arithmetic mean, or 0 if there are no numbers."""
    values = list(numbers)
    return sum(values) / max(len(values), 1)
