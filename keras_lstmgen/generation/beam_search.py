"""Beam search: deterministic search for the texts with the highest scores.

The score of a text of n tokens, including an end token, whose log-probabilities sum to ``total`` is

    total / ((5 + n) / 6) ** A

This is the length penalty of Wu et al., "Google's Neural Machine Translation System", 2016, equation 14, without the
coverage penalty. With A = 0 the score is the sum, which favors short texts.

The search with N beams:

1. Start with one live text, the empty text.
2. Extend each live text by each allowed token. The total of a candidate is the total of its text, plus the
   log-probability of the token over all V ids, plus the ``bias`` of the token (``logits_processors``), in float64.
3. Take the 2 N candidates with the largest totals; ties are in the order of their texts, then of ids. Finished
   candidates among the first N are collected. The first N unfinished candidates become the live texts.
4. Repeat from step 2. Stop after ``max_new_tokens`` and collect the live texts too; or stop when no live text remains;
   or stop when N texts are collected and no live text can score higher than the Nth best. The bound is the largest live
   total, divided by the penalty of ``max_new_tokens`` tokens. It is exact unless a bias is positive, because
   log-probabilities only decrease a total.
5. The result is the N best collected texts; ties are in the order of collection.

``export/beam.py`` implements the same search for clients that have only an artifact.
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
        draft: prompt and text.
        outlook: the tokens that may follow.
        total: sum of log-probabilities and biases, by which the search orders the texts.
        logprob: sum of the log-probabilities under the model.
        score: total divided by the length penalty.
        ended: whether the text has ended, by an end token, a stop string, or because no token may follow.
        parent: index of the live text that this text extends.
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
    """Parameters of a search.

    Attributes:
        beams: N, number of live texts and of results.
        length_penalty: A, from 0 (off) to 10.
        max_new_tokens: maximum number of tokens per text, 1 or more.

    Raises:
        UserError: if a value is out of range; the message names the command line option.
    """

    beams: int
    length_penalty: float = 0.0
    max_new_tokens: int = 300

    def __post_init__(self) -> None:
        """Check the range of every value; NaN is out of range."""
        check_at_least("--beams", self.beams, 1)
        if self.beams > MAX_BEAMS:
            raise UserError(f"--beams: {self.beams} is out of range; give {MAX_BEAMS} or less")
        check_at_least("--max-new-tokens", self.max_new_tokens, 1)
        if not 0 <= self.length_penalty <= 10:
            raise UserError(
                f"--length-penalty: {self.length_penalty} is out of range; give a number from 0 (off) to 10"
            )


class StepRequest(NamedTuple):
    """Input of one step of the model: ids, integer [B], and states, float32 [B, S]."""

    ids: NDArray[np.integer]
    state: NDArray[np.float32]


# A search yields a request, receives the logits [B, V] and states [B, S] of the step, and returns the best texts.
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
        step: reads ids, int32 [B], and states, float32 [B, S]; returns logits, float32 [B, V], and states [B, S].
        config: parameters of the search.
        constraints: compiled logits processors.
        ids: ids of the prompt, at least one.
        S: state size of the model.
        has_ended: whether a text of these tokens has ended, apart from texts that end with the end token.

    Returns:
        At most ``config.beams`` texts, best first.

    Raises:
        UserError: if there are no ids.
    """
    (hypotheses,) = run_together(step, [start(config, constraints, ids, S, has_ended)])
    return hypotheses


def run_together(step: Step, searches: Sequence[Search]) -> list[list[Hypothesis]]:
    """Run several searches and combine their requests into one batch per step.

    Args:
        step: see ``search``.
        searches: results of ``start``.

    Returns:
        The texts that each search finds, best first.
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
    """Send the output of a step to a search; return its next request, or store its result and return None."""
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
    """Create a search as a generator of requests. See ``search`` for the arguments."""
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
    """Return the N texts with the highest scores, best first; ties are in the order of collection."""
    return sorted(ended, key=lambda text: -text.score)[: config.beams]


def _candidates(
    config: BeamSearchConfig, constraints: Constraints, live: list[Hypothesis], logits: Any, has_ended: HasEnded
) -> list[Hypothesis]:
    """Return the 2 N candidates with the largest totals, in descending order."""
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
    """Return the indices of the largest finite totals, at most ``limit``, in descending order; ties by index."""
    least = np.partition(totals, -limit)[-limit] if limit < len(totals) else -np.inf
    places = np.flatnonzero((totals >= least) & (totals > -np.inf))  # only these are sorted, which is faster
    return places[np.argsort(-totals[places], kind="stable")][:limit]


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Compute the log-probabilities over the last axis in float64.

    >>> import numpy as np
    >>> from keras_lstmgen.generation.beam_search import log_softmax
    >>> np.exp(log_softmax(np.log(np.array([[1, 3]], np.float32)))).round(6).tolist()
    [[0.25, 0.75]]
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def penalty(n: int, A: float) -> float:
    """Compute the length penalty by which the total of a text of n tokens is divided (Wu et al., 2016).

    >>> from keras_lstmgen.generation.beam_search import penalty
    >>> penalty(1, 0.6), penalty(7, 1.0), penalty(7, 0.0)
    (1.0, 2.0, 1.0)
    """
    return float(((5 + n) / 6) ** A)


def _is_settled(config: BeamSearchConfig, best: Hypothesis, ended: list[Hypothesis]) -> bool:
    """Return whether N texts are collected and ``best``, the best live text, cannot score higher than all of them."""
    if len(ended) < config.beams:
        return False
    return best.total / penalty(config.max_new_tokens, config.length_penalty) <= ended[-1].score
