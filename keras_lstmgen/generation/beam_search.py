"""Beam search: a deterministic search for the texts with the highest scores.

The total of a text is the sum of the log-probabilities and biases of its tokens. The score of a text of n tokens is

    total / ((5 + n) / 6) ** A

The number n includes the end token. The divisor is the length penalty of Wu et al., "Google's Neural Machine
Translation System", 2016, equation 14, without the coverage penalty. With A = 0, the score equals the total. The search
then favors short texts, because the log-probability of each token lowers the total.

The search keeps at most N unfinished texts, the live texts:

1. Start with one live text, which is empty.
2. Extend each live text by each allowed token. Each extended text is a candidate. Its total is the total of the live
   text, plus the log-probability of the token over all V ids, plus the ``bias`` of the token (``logits_processors``).
   Totals are computed in float64.
3. Select the 2 N candidates with the largest totals. Sort candidates with equal totals by the order of the live texts
   that they extend, then by the ids of the added tokens. Collect the finished candidates among the first N. The first
   N unfinished candidates become the live texts.
4. Repeat from step 2 until one of three conditions holds:

   - The texts have ``max_new_tokens`` tokens. In this case, the search also collects the live texts.
   - No live text remains.
   - N texts are collected, and no live text can reach a higher score than the Nth best collected text. To estimate the
     highest score that a live text can reach, the search divides the largest total of a live text by the length
     penalty of ``max_new_tokens`` tokens. If no bias is positive, no score exceeds the estimate, because
     log-probabilities can only decrease a total.

5. Return the N collected texts with the highest scores. Texts with equal scores keep the order of collection.

``export/beam.py`` implements the same search for clients that only have an exported artifact.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.generation import logits_processors
from keras_lstmgen.generation.decoding_loop import Step
from keras_lstmgen.generation.logits_processors import Constraints, Draft, Outlook
from keras_lstmgen.utils.errors import UserError, check_at_least, check_not_empty

MAX_BEAMS = 65_536
Floats = NDArray[np.float64]
HasEnded = Callable[[Sequence[int]], bool]


class Hypothesis(NamedTuple):
    """A candidate text.

    Attributes:
        draft: ids of the prompt and of the text.
        outlook: the bias of the token that follows the text.
        total: sum of the log-probabilities and biases of the tokens. The search orders candidates by their totals.
        logprob: sum of the log-probabilities under the model, without biases.
        score: the total divided by the length penalty.
        ended: whether the text has ended: by an end token, by a stop string, or because no token may follow.
        parent: index of the live text that this text extends by one token.
    """

    draft: Draft
    outlook: Outlook
    total: float = 0.0
    logprob: float = 0.0
    score: float = 0.0
    ended: bool = False
    parent: int = 0

    @property
    def tokens(self) -> list[int]:
        """Return the ids of the text without the prompt."""
        return list(self.draft.output.tolist())


@dataclass(frozen=True)
class BeamSearchConfig:
    """Parameters of a beam search.

    Attributes:
        beams: N, the maximum number of live texts and of results, from 1 to ``MAX_BEAMS``.
        length_penalty: A, the exponent of the length penalty, from 0 (off) to 10.
        max_new_tokens: maximum number of tokens per text, 1 or more.

    Raises:
        UserError: if a value is out of range. The message names the command line option.
    """

    beams: int
    length_penalty: float = 0.0
    max_new_tokens: int = 300

    def __post_init__(self) -> None:
        """Check the range of every value. NaN is out of range."""
        check_at_least("--beams", self.beams, 1)
        if self.beams > MAX_BEAMS:
            raise UserError(f"--beams: {self.beams} is out of range; give {MAX_BEAMS} or less")
        check_at_least("--max-new-tokens", self.max_new_tokens, 1)
        if not 0 <= self.length_penalty <= 10:
            raise UserError(
                f"--length-penalty: {self.length_penalty} is out of range; give a number from 0 (off) to 10"
            )


class StepRequest(NamedTuple):
    """Input of one step of the model.

    Attributes:
        ids: integer [B], the next id of each of B texts.
        state: float32 [B, S], the states of the B texts before these ids.
    """

    ids: NDArray[np.integer]
    state: NDArray[np.float32]


# A search is a Python generator. It yields a request for one step of the model, and receives the logits [B, V] and the
# states [B, S] that the step returns. At its end, it returns the best texts.
Search = Generator[StepRequest, tuple[Any, Any], list[Hypothesis]]


def search(
    step: Step,
    config: BeamSearchConfig,
    constraints: Constraints,
    ids: Sequence[int],
    S: int,
    has_ended: HasEnded = lambda _: False,
) -> list[Hypothesis]:
    """Find the best continuations of a prompt.

    Args:
        step: a function that takes ids, int32 [B], and states, float32 [B, S]. It returns the logits of the next
            tokens, float32 [B, V], and the new states, float32 [B, S].
        config: parameters of the search.
        constraints: compiled logits processors.
        ids: ids of the prompt, at least one.
        S: state size of the model.
        has_ended: a function that takes the ids of a text without its prompt and returns whether a stop string ends
            the text. The search itself detects end tokens.

    Returns:
        At most ``config.beams`` texts, best first.

    Raises:
        UserError: if ``ids`` is empty.
    """
    (hypotheses,) = run_together(step, [start(config, constraints, ids, S, has_ended)])
    return hypotheses


def run_together(step: Step, searches: Sequence[Search]) -> list[list[Hypothesis]]:
    """Run several searches at the same time. Each step of the model processes the texts of all searches in one batch.

    Args:
        step: see ``search``.
        searches: searches that ``start`` created.

    Returns:
        One list per search: the texts that the search returns, best first.
    """
    results: list[list[Hypothesis]] = [[] for _ in searches]
    requests = {i: request for i in range(len(searches)) if (request := _resume(searches, i, None, results))}
    while requests:
        ids, states = (np.concatenate(parts) for parts in zip(*requests.values(), strict=True))
        cuts = np.cumsum([len(request.ids) for request in requests.values()])[:-1]
        outputs = zip(*(np.split(part, cuts) for part in step(ids, states)), strict=True)
        answers = dict(zip(requests, outputs, strict=True))
        requests = {i: request for i in answers if (request := _resume(searches, i, answers[i], results))}
    return results


def _resume(searches: Sequence[Search], index: int, answer: Any, results: list[list[Hypothesis]]) -> StepRequest | None:
    """Send the output of a step to a search and return the next request of the search.

    If the search has ended, store its texts in ``results[index]`` and return None.
    """
    try:
        return searches[index].send(answer)
    except StopIteration as end:
        results[index] = end.value
        return None


def start(
    config: BeamSearchConfig,
    constraints: Constraints,
    ids: Sequence[int],
    S: int,
    has_ended: HasEnded = lambda _: False,
) -> Search:
    """Create a search that ``run_together`` can run. See ``search`` for the arguments."""
    check_not_empty("ids", ids)
    draft = logits_processors.begin(constraints, ids)
    empty = Hypothesis(draft, logits_processors.outlook(constraints, draft))
    if empty.outlook.over:
        return [empty._replace(ended=True)]
    live, ended = [empty], list[Hypothesis]()
    logits, state = None, np.zeros((1, S), np.float32)
    for token in ids:
        logits, state = yield StepRequest(np.array([token]), state)
    for length in range(1, config.max_new_tokens + 1):
        candidates = _candidates(config, constraints, live, logits, has_ended)
        ended = _best(config, ended + [candidate for candidate in candidates[: config.beams] if candidate.ended])
        live = [candidate for candidate in candidates if not candidate.ended][: config.beams]
        if length == config.max_new_tokens:
            ended += live
        elif not live or _is_settled(config, live[0], ended):
            break
        else:
            last = np.array([text.draft.ids[-1] for text in live])
            logits, state = yield StepRequest(last, state[[text.parent for text in live]])
    return _best(config, ended)


def _best(config: BeamSearchConfig, ended: list[Hypothesis]) -> list[Hypothesis]:
    """Return the N texts with the highest scores, best first. Texts with equal scores keep their order."""
    return sorted(ended, key=lambda text: -text.score)[: config.beams]


def _candidates(
    config: BeamSearchConfig, constraints: Constraints, live: list[Hypothesis], logits: Any, has_ended: HasEnded
) -> list[Hypothesis]:
    """Extend each live text by each token, and return the 2 N candidates with the largest totals, largest first."""
    logprobs = log_softmax(logits)
    totals = logprobs + [text.outlook.bias for text in live] + [[text.total] for text in live]
    candidates = []
    for place in _largest(totals.ravel(), 2 * config.beams):
        parent, token = divmod(int(place), totals.shape[1])
        draft = logits_processors.follow(live[parent].draft, token, constraints.end_id)
        outlook = logits_processors.outlook(constraints, draft)
        candidate = Hypothesis(
            draft,
            outlook,
            total=float(totals[parent, token]),
            logprob=live[parent].logprob + float(logprobs[parent, token]),
            score=float(totals[parent, token]) / penalty(len(draft.output), config.length_penalty),
            ended=outlook.over or has_ended(draft.output.tolist()),
            parent=parent,
        )
        candidates.append(candidate)
    return candidates


def _largest(totals: Floats, limit: int) -> NDArray[np.intp]:
    """Return the indices of the ``limit`` largest finite totals, largest total first.

    If fewer totals are finite, return the indices of all finite totals. Sort equal totals by their indices.
    """
    least = np.partition(totals, -limit)[-limit] if limit < len(totals) else -np.inf
    places = np.flatnonzero((totals >= least) & (totals > -np.inf))  # it is faster to sort only these totals
    return places[np.argsort(-totals[places], kind="stable")][:limit]


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Convert logits (float32 [..., V]) to log-probabilities over the last axis (float64 [..., V]).

    >>> import numpy as np
    >>> from keras_lstmgen.generation.beam_search import log_softmax
    >>> np.exp(log_softmax(np.log(np.array([[1, 3]], np.float32)))).round(6).tolist()
    [[0.25, 0.75]]
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def penalty(n: int, A: float) -> float:
    """Compute the length penalty of a text of n tokens with the exponent A (Wu et al., 2016).

    The score of the text is its total divided by this penalty.

    >>> from keras_lstmgen.generation.beam_search import penalty
    >>> penalty(1, 0.6), penalty(7, 1.0), penalty(7, 0.0)
    (1.0, 2.0, 1.0)
    """
    return float(((5 + n) / 6) ** A)


def _is_settled(config: BeamSearchConfig, best: Hypothesis, ended: list[Hypothesis]) -> bool:
    """Return True if N texts are collected and no live text can reach a higher score than the Nth best collected text.

    Args:
        config: parameters of the search.
        best: the live text with the largest total.
        ended: the collected texts, best first.
    """
    if len(ended) < config.beams:
        return False
    return best.total / penalty(config.max_new_tokens, config.length_penalty) <= ended[-1].score
