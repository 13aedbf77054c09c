"""Generated texts: the sample that a caller gets, and its growth token by token."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from keras_lstmgen.generation import logits_processors
from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.generation.logits_processors import Draft

UNFINISHED = "the match of --regex is incomplete"


@dataclass
class Sample:
    """A generated text.

    Attributes:
        text: the text; empty until the text has ended.
        tokens: ids of the text, including an end token and the tokens of a stop string.
        length: number of tokens.
        logprob: sum of the log-probabilities of the tokens under the model, before all options.
        finish_reason: "stop" after an end token, after a stop string, or if no token may follow; "length" at the
            maximum length; "break" after an interruption; "" while the text grows.
        note: a sentence on constraints that were not met; "" if there is none.
        score: score of a beam search, otherwise None.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    length: int = 0
    logprob: float = 0.0
    finish_reason: str = ""
    note: str = ""
    score: float | None = None


@dataclass
class GrowingText:
    """A text that is not finished.

    Attributes:
        sample: the sample to fill.
        detokenizer: converts its tokens.
        emit: called with new characters.
        draft: state of the logits processors; None: off.
        keep_text: whether the sample holds text and tokens.
    """

    sample: Sample
    detokenizer: Detokenizer
    emit: Callable[[str], None] = lambda _: None
    draft: Draft | None = None
    keep_text: bool = True
    _parts: list[str] = field(default_factory=list, init=False)  # joined once, when the text ends

    def extend(self, tokens: Iterable[int], logprobs: Iterable[float], end_id: int) -> None:
        """Add a chunk of tokens with their log-probabilities, up to the end of the text."""
        sample = self.sample
        for token, logprob in zip(tokens, logprobs, strict=True):
            if sample.finish_reason:
                return
            sample.length += 1
            if self.keep_text:
                sample.tokens.append(int(token))
            sample.logprob += float(logprob)
            if self.draft:
                self.draft = logits_processors.follow(self.draft, int(token), end_id)
            self.push(int(token))
            if token == end_id or self.detokenizer.stopped:
                self.finish("stop")

    def push(self, token: int) -> None:
        """Add the characters of a token, without counting the token."""
        self._add(self.detokenizer.push(token))

    def finish(self, reason: str) -> None:
        """End the text for a reason, unless it has ended, and note an incomplete match."""
        sample = self.sample
        if sample.finish_reason:
            return
        sample.finish_reason = reason
        if not self.detokenizer.stopped:
            self._add(self.detokenizer.flush())
        sample.text = "".join(self._parts)
        if self.draft and logits_processors.unfinished(self.draft):
            sample.note = "; ".join(filter(None, [sample.note, UNFINISHED]))

    def _add(self, new: str) -> None:
        if new and self.keep_text:
            self._parts.append(new)
        if new:
            self.emit(new)
