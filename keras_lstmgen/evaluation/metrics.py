"""How good answers are: against what people wrote, and against each other. Strings in, numbers out.

A share is a number from 0 to 1; BLEU is one from 0 to 100, as its library has it.
"""

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from keras_lstmgen.utils.errors import UserError

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")  # a Chinese character, or a word of letters and digits
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|(?<=[。！？])")
ARTICLES = re.compile(r"\b(a|an|the)\b")
References = Sequence[Collection[str]]  # all targets of each source


def bleu(answers: Sequence[str], references: References) -> dict[str, Any]:
    """Corpus BLEU (Papineni et al., 2002) of answers to all targets of their sources, and the library's signature.

    It is sacrebleu's (Post, 2018), with its default tokenizer; the signature says all that it depends on.
    """
    metric = library("bleu").BLEU()
    # A stream has one reference of each answer; where a source has fewer targets than another, sacrebleu wants None.
    streams = [list(stream) for stream in zip_longest(*references)]
    score = metric.corpus_score(list(answers), streams).score
    return {"bleu": float(score), "signature": str(metric.get_signature())}


def rouge(answers: Sequence[str], references: References) -> dict[str, float]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004), each answer by the target that it is nearest to.

    The scores are those of rouge-score, with its stemmer, which knows letters a to z and digits alone.
    """
    scorer = library("rouge").RougeScorer(list(ROUGE.values()), use_stemmer=True)
    scores = [scorer.score_multi(list(targets), answer) for answer, targets in zip(answers, references, strict=True)]
    return {name: _mean(score[kind].fmeasure for score in scores) for name, kind in ROUGE.items()}


def library(measure: str) -> Any:
    """The library that a measure needs; UserError with what to install. None for a measure of our own."""
    try:
        if measure == "bleu":
            from sacrebleu.metrics import bleu as found
        elif measure == "rouge":
            from rouge_score import rouge_scorer as found
        else:
            return None
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(
            f"evaluate.measures: '{measure}' needs the package {package}; pip install 'keras_lstmgen[measures]'"
        ) from error
    return found


def first_sentence(text: str) -> str:
    """A text up to its first full stop, as a trivial summary: "A b. C d." gives "A b."."""
    return SENTENCE.split(text.strip(), maxsplit=1)[0]


def exact_match(answers: Sequence[str], references: References) -> dict[str, float]:
    """Share of answers that are a target, and mean F1 of words with the nearest target (Rajpurkar et al., SQuAD, 2016).

    Both after ``normalised``.
    """
    scores = [_matched(answer, known) for answer, known in zip(answers, references, strict=True)]
    return {"exact_match": _mean(exact for exact, _ in scores), "f1": _mean(words for _, words in scores)}


def _matched(answer: str, known: Collection[str]) -> tuple[bool, float]:
    """Return whether an answer is one of its targets, and its F1 with the nearest."""
    ours, theirs = normalised(answer), [normalised(target) for target in known]
    counts = Counter(ours.split())
    return ours in theirs, max(_f1(counts, Counter(other.split())) for other in theirs)


def normalised(text: str) -> str:
    """SQuAD's form of an answer: lower case, no punctuation of ASCII, no articles, single spaces."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", kept).split())


def _f1(ours: Counter[str], theirs: Counter[str]) -> float:
    """Return the harmonic mean of the shares of each side's words that the other has; 1 if both have none."""
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def recall(answers: Sequence[str], references: References) -> float:
    """Share of answers that are one of their targets, word for word."""
    return _mean(answer in known for answer, known in zip(answers, references, strict=True))


def distinct_2(texts: Iterable[str]) -> float:
    """Distinct bigrams as a share of all bigrams of words in texts (after Li et al., 2016); 0 where there is none."""
    bigrams = [bigram for text in texts for bigram in pairwise(words(text))]
    return len(set(bigrams)) / max(len(bigrams), 1)


def words(text: str) -> list[str]:
    """Its words in lower case, without punctuation; each Chinese character counts as one."""
    return WORD.findall(text.lower())


def _mean(numbers: Iterable[float]) -> float:
    known = list(numbers)
    return sum(known) / max(len(known), 1)
