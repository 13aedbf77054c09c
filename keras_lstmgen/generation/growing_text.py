"""Generated texts: ``Sample`` is the result for the caller, and ``GrowingText`` is a text during its generation."""

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
        text: the text without the prompt. Empty until the text has ended.
        tokens: ids of the text, including an end token and the tokens of a stop string.
        length: number of tokens.
        logprob: sum of the log-probabilities of the tokens under the model, before the sampling options apply.
        finish_reason: "stop" if an end token or a stop string ended the text, or if no token was allowed. "length" if
            the text reached the maximum length. "break" if the caller interrupted the generation. "" if the text
            has not ended.
        note: a message if the constraints forbade all tokens, or if the text does not match its regular expression.
            Otherwise "".
        score: the score of the text in a beam search. None for a sampled text.
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
    """A text that is being generated.

    Attributes:
        sample: the sample that receives the text.
        detokenizer: the detokenizer that converts the tokens of the text to characters.
        emit: a function that is called with new characters when they are final.
        draft: state of the logits processors. None if there are no logits processors.
        keep_text: whether the sample stores the text and its tokens.
    """

    sample: Sample
    detokenizer: Detokenizer
    emit: Callable[[str], None] = lambda _: None
    draft: Draft | None = None
    keep_text: bool = True
    _parts: list[str] = field(default_factory=list, init=False)  # the characters so far; ``finish`` joins them

    def extend(self, tokens: Iterable[int], logprobs: Iterable[float], end_id: int) -> None:
        """Add tokens and their log-probabilities. Ignore the tokens after the end of the text."""
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
        """Add the characters of a token. The length and the log-probability of the sample do not change."""
        self._add(self.detokenizer.push(token))

    def finish(self, reason: str) -> None:
        """End the text, unless it has ended already. Add a note if the text does not match its regular expression."""
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
        """Store and emit new characters."""
        if new and self.keep_text:
            self._parts.append(new)
        if new:
            self.emit(new)
