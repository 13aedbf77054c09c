"""Beam search: the texts with the best scores that a search of a given width finds. It draws nothing.

A text of n tokens (the end token is one) whose log-probabilities sum up to ``total`` has the score

    total / ((5 + n) / 6) ** A

which is the length penalty of Wu et al. ("Google's Neural Machine Translation System", 2016, equation 14) without the
coverage of a source; A = 0 is the sum itself, which likes short texts.

The search, N texts wide:

1. One text lives, the empty one.
2. Each token that may follow a living text makes a candidate. Its total is that of the text, plus the token's
   log-probability by the model over all V ids, plus its ``bias`` (``constraints``): all in float64.
3. The 2 N candidates of the largest totals are looked at, equals in the order of their texts and then of ids. Those
   that end a text are found, if they are among the first N; of the others the first N live on.
4. It goes on from 2 until ``max_new_tokens``, where what lives is found; until nothing lives; or until N texts are
   found and the largest living total, divided by the penalty of ``max_new_tokens``, is not above the score of the Nth
   best of them: totals only fall (a bias above 0 aside), so that no living text could still be one of the best.
5. The N best of what was found are the result, equals in the order in which they were found.

``export/beam.py`` is the same for a client that has an artifact alone.
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

MOST = 65_536  # beams
Floats = NDArray[np.float64]
Over = Callable[[Sequence[int]], bool]


class Hypothesis(NamedTuple):
    """A text of the search."""

    draft: Draft
    outlook: Outlook
    total: float = 0.0  # of log-probabilities and biases, which the search goes by
    logprob: float = 0.0  # the model's own
    score: float = 0.0
    ended: bool = False  # by an end token, a stop string, or because nothing may follow
    parent: int = 0  # the living text that it continues

    @property
    def tokens(self) -> list[int]:
        """The output."""
        return list(self.draft.output.tolist())


@dataclass(frozen=True)
class Search:
    """What is asked for. Errors name the option as it is typed."""

    beams: int  # N
    length_penalty: float = 0.0  # A
    max_new_tokens: int = 300

    def __post_init__(self) -> None:
        """Refuse what is out of range; NaN is."""
        check_at_least("--beams", self.beams, 1)
        if self.beams > MOST:
            raise UserError(f"--beams: {self.beams} is out of range; give {MOST} or less")
        check_at_least("--max-new-tokens", self.max_new_tokens, 1)
        if not 0 <= self.length_penalty <= 10:
            raise UserError(
                f"--length-penalty: {self.length_penalty} is out of range; give a number from 0 (off) to 10"
            )


class Request(NamedTuple):
    """What a search wants to be read."""

    ids: NDArray[np.integer]  # [B]
    state: NDArray[np.float32]  # [B, S]


Searching = Generator[Request, tuple[Any, Any], list[Hypothesis]]


def search(
    step: Step, asked: Search, limits: Constraints, ids: Sequence[int], S: int, over: Over = lambda _: False
) -> list[Hypothesis]:
    """Find the best texts behind ``ids``, at least one, best first.

    ``step`` reads int32 [B] and float32 [B, S] and gives float32 logits [B, V] and the state [B, S]. ``over`` says of
    the tokens of a text that it has ended, besides those that end with the end token.
    """
    (found,) = together(step, [searching(asked, limits, ids, S, over)])
    return found


def together(step: Step, searches: Sequence[Searching]) -> list[list[Hypothesis]]:
    """What each search finds; what they want to be read is read side by side."""
    found: list[list[Hypothesis]] = [[] for _ in searches]
    wanted = {number: request for number in range(len(searches)) if (request := _go_on(searches, number, None, found))}
    while wanted:
        ids, states = (np.concatenate(parts) for parts in zip(*wanted.values(), strict=True))
        cuts = np.cumsum([len(request.ids) for request in wanted.values()])[:-1]
        answers = zip(*(np.split(part, cuts) for part in step(ids, states)), strict=True)
        given = dict(zip(wanted, answers, strict=True))
        wanted = {number: request for number in given if (request := _go_on(searches, number, given[number], found))}
    return found


def _go_on(searches: Sequence[Searching], number: int, answer: Any, found: list[list[Hypothesis]]) -> Request | None:
    """Let a search go on to what it wants to be read next; None once it has found all."""
    try:
        return searches[number].send(answer)
    except StopIteration as end:
        found[number] = end.value
        return None


def searching(
    asked: Search, limits: Constraints, ids: Sequence[int], S: int, over: Over = lambda _: False
) -> Searching:
    """The search that ``search`` is about: yields what it wants to be read, is sent the logits and states behind it."""
    check_not_empty("ids", ids)
    first = logits_processors.begin(limits, ids)
    empty = Hypothesis(first, logits_processors.outlook(limits, first))
    if empty.outlook.over:
        return [empty._replace(ended=True)]
    living, found = [empty], list[Hypothesis]()
    logits, state = None, np.zeros((1, S), np.float32)
    for token in ids:
        logits, state = yield Request(np.array([token]), state)
    for length in range(1, asked.max_new_tokens + 1):
        children = _children(asked, limits, living, logits, over)
        found = _best(asked, found + [child for child in children[: asked.beams] if child.ended])
        living = [child for child in children if not child.ended][: asked.beams]
        if length == asked.max_new_tokens:
            found += living
        elif not living or _settled(asked, living[0], found):
            break
        else:
            last = np.array([child.draft.ids[-1] for child in living])
            logits, state = yield Request(last, state[[child.parent for child in living]])
    return _best(asked, found)


def _best(asked: Search, found: list[Hypothesis]) -> list[Hypothesis]:
    """Return the N best of what was found, best first, equals in the order in which they were found."""
    return sorted(found, key=lambda text: -text.score)[: asked.beams]


def _children(
    asked: Search, limits: Constraints, living: list[Hypothesis], logits: Any, over: Over
) -> list[Hypothesis]:
    """The candidates that are looked at, best first."""
    logprobs = log_softmax(logits)
    totals = logprobs + [text.outlook.bias for text in living] + [[text.total] for text in living]
    children = []
    for place in _largest(totals.ravel(), 2 * asked.beams):
        parent, token = divmod(int(place), totals.shape[1])
        draft = logits_processors.follow(living[parent].draft, token, limits.end_id)
        outlook = logits_processors.outlook(limits, draft)
        child = Hypothesis(
            draft,
            outlook,
            total=float(totals[parent, token]),
            logprob=living[parent].logprob + float(logprobs[parent, token]),
            score=float(totals[parent, token]) / penalty(len(draft.output), asked.length_penalty),
            ended=outlook.over or over(draft.output.tolist()),
            parent=parent,
        )
        children.append(child)
    return children


def _largest(totals: Floats, most: int) -> NDArray[np.intp]:
    """Places of the largest numbers that are not minus infinity, in falling order, the first of equals first."""
    least = np.partition(totals, -most)[-most] if most < len(totals) else -np.inf
    places = np.flatnonzero((totals >= least) & (totals > -np.inf))  # no more is sorted than has to be
    return places[np.argsort(-totals[places], kind="stable")][:most]


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Log-probabilities of the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def penalty(n: int, A: float) -> float:
    """What the total of a text of n tokens is divided by."""
    return float(((5 + n) / 6) ** A)


def _settled(asked: Search, best: Hypothesis, found: list[Hypothesis]) -> bool:
    """Say whether nothing that lives, of which ``best`` has the largest total, can still be among the N best found."""
    if len(found) < asked.beams:
        return False
    return best.total / penalty(asked.max_new_tokens, asked.length_penalty) <= found[-1].score
