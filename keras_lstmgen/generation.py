"""Writing: from a prompt to text on the screen, as it comes, without half characters."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen import sampling
from keras_lstmgen.decode import Text, begin, write
from keras_lstmgen.run import Run
from keras_lstmgen.sampling import Options
from keras_lstmgen.tokenizer import BYTE_BY_BYTE, Tokenizer

CHUNK = 16  # tokens written between two looks at the screen: few enough to flow, many enough to be fast


@dataclass
class Sample:
    """One text as it grows."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish_reason: str = ""  # "stop": an end symbol or a stop string; "length"; "" while it grows


Writer = Callable[..., Any]


def writer(run: Run) -> Writer:
    """Compile the decoding loop for a run's weights; traced once, for any B, P and N."""
    weights, unsampled = run.weights, unsampled_mask(run)

    @tf.function(reduce_retracing=True)
    def call(ids: Any, text: Text, noise: Any, options: sampling.Rows) -> Any:
        return write(weights, ids, text, noise, options, unsampled, run.metadata.end_id)

    return call


def unsampled_mask(run: Run) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The ids that are never written, as bool [V]."""
    mask = np.zeros(run.metadata.vocab_size, bool)
    mask[list(run.metadata.unsampled_ids)] = True
    return mask


def generate(
    run: Run,
    prompt: str,
    max_new_tokens: int,
    options: Options | None = None,
    *,
    seeds: Sequence[int] = (0,),
    stop: Sequence[str] = (),
    emit: Callable[[int, str], None] = lambda _row, _text: None,
    call: Writer | None = None,
) -> list[Sample]:
    """Write one text a seed, all in one batch.

    Args:
        run: the model.
        prompt: text to go on from; empty: from the start symbol.
        max_new_tokens: most tokens a text.
        options: how to draw; by default as the model's probabilities are.
        seeds: 64-bit seeds, one a text; the same seed writes the same text, whatever the batch.
        stop: strings that end a text; they are left out of it.
        emit: called with (row, new text) as soon as the text can no longer change.
        call: what ``writer`` gave, to save tracing it again.
    """
    call = call or writer(run)
    B = len(seeds)
    samples, tails = [Sample() for _ in seeds], [Tail(run.tokenizer, stop) for _ in seeds]
    rows = sampling.rows([options or Options()] * B)
    text = begin(B, run.metadata.state_size, run.metadata.vocab_size)
    ids = np.array([run.prompt_ids(prompt)] * B, np.int32)
    emitters = [partial(emit, row) for row in range(B)]
    for start in range(0, max_new_tokens, CHUNK):
        N = min(CHUNK, max_new_tokens - start)
        written = call(ids, text, sampling.noise(list(seeds), N, start), rows)
        chunk = zip(written.tokens.numpy(), written.logprobs.numpy(), strict=True)
        for sample, tail, show, (tokens, logprobs) in zip(samples, tails, emitters, chunk, strict=True):
            _take(sample, tail, tokens, logprobs, run.metadata.end_id, show)
        if all(sample.finish_reason for sample in samples):
            break
        ids, text = written.tokens.numpy()[:, -1:], written.text
    for sample, tail, show in zip(samples, tails, emitters, strict=True):
        _finish(sample, tail, "length", show)
    return samples


def _take(sample: Sample, tail: "Tail", tokens: Any, logprobs: Any, end_id: int, emit: Callable[[str], None]) -> None:
    """Add a chunk of tokens to a text, until it ends."""
    for token, logprob in zip(tokens, logprobs, strict=True):
        if sample.finish_reason:
            return
        sample.tokens.append(int(token))
        sample.logprob += float(logprob)
        _add(sample, tail.push(int(token)), emit)
        if token == end_id:
            _finish(sample, tail, "stop", emit)
        elif tail.stopped:
            sample.finish_reason = "stop"


def _finish(sample: Sample, tail: "Tail", reason: str, emit: Callable[[str], None]) -> None:
    if not sample.finish_reason:
        sample.finish_reason = reason
        _add(sample, tail.flush(), emit)


def _add(sample: Sample, new: str, emit: Callable[[str], None]) -> None:
    if new:
        sample.text += new
        emit(new)


class Tail:
    """The end of a text that may still change: bytes of half a character, the beginning of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """Follow one text."""
        self.stopped = False
        self._bytes = tokenizer.piece_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(BYTE_BY_BYTE)
        self._stop = [word for word in stop if word]
        self._held = ""

    def push(self, token: int) -> str:
        """Read a token; give the text that is now certain, without a stop string."""
        return self._release(self._decoder.decode(self._bytes(token)), final=False)

    def flush(self) -> str:
        """Give what was held back: the text ends here."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, new: str, final: bool) -> str:
        held = self._held + new
        ends = [held.find(word) for word in self._stop if word in held]
        if ends:
            self.stopped, self._held = True, ""
            return held[: min(ends)]
        keep = 0 if final else self._may_match(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def _may_match(self, held: str) -> int:
        """The length of the longest end of ``held`` that begins a stop string."""
        longest = max((len(word) - 1 for word in self._stop), default=0)
        sizes = range(min(longest, len(held)), 0, -1)
        return next((n for n in sizes if any(word.startswith(held[-n:]) for word in self._stop)), 0)
