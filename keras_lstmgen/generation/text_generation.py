"""Writing: from a prompt to text on the screen, as it comes, without half characters."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen.generation import beam_search, logits_processors, sampling
from keras_lstmgen.generation.decoding_loop import Step, Text, begin, write
from keras_lstmgen.generation.logits_processors import Constraints, Draft, HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models.inference_step import Weights, in_parts
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.tokenizers.tokenizer import BYTE_BY_BYTE, Tokenizer
from keras_lstmgen.utils.errors import check_at_least, check_not_empty

UNFINISHED = "the match of --regex is unfinished"
CHUNK = 16  # tokens written between two looks at the screen: few enough to flow, many enough to be fast


@dataclass
class Sample:
    """One text as it grows."""

    text: str = ""  # once it has ended
    tokens: list[int] = field(default_factory=list)
    length: int = 0  # tokens written
    logprob: float = 0.0
    # "stop": an end symbol, a stop string, nothing may follow; "length"; "break": broken off; "" while it grows
    finish_reason: str = ""
    note: str = ""  # what went otherwise than was asked
    score: float | None = None  # of a beam search


Writer = Callable[..., Any]


def writer(run: Run, weights: Weights | None = None) -> Writer:
    """Compile the decoding loop for a run's weights; traced once, for any B, P and N.

    Weights that are going to change are given; otherwise those of a large vocabulary are copied (``model.in_parts``).
    """
    weights, unsampled = weights or in_parts(run.weights), unsampled_mask(run)

    @tf.function(reduce_retracing=True, autograph=False)  # AutoGraph writes a file, and there is nothing to convert
    def call(ids: Any, text: Text, noise: Any, options: sampling.Rows, bias: Any = None) -> Any:
        return write(weights, ids, text, noise, options, unsampled, run.metadata.end_id, bias=bias)

    return call


def unsampled_mask(run: Run) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The ids that are never written, as bool [V]."""
    mask = np.zeros(run.metadata.vocab_size, bool)
    mask[list(run.metadata.unsampled_ids)] = True
    return mask


def constrained(run: Run, options: HostOptions) -> Constraints:
    """Work out the host's options for a run."""
    return logits_processors.compiled(options, run.tokenizer, run.metadata.unsampled_ids, run.metadata.end_id)


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
    limits: Constraints | None = None,
    keep: bool = True,
) -> list[Sample]:
    """Write one text a seed, all in one batch.

    Args:
        run: the model.
        prompt: text to go on from; empty: from the start symbol.
        max_new_tokens: most tokens a text, 1 or more.
        options: how to draw; by default as the model's probabilities are.
        seeds: 64-bit seeds, one a text, at least one; the same seed writes the same text, whatever the batch.
        stop: strings that end a text; they are left out of it.
        emit: called with (row, new text) as soon as the text can no longer change.
        call: what ``writer`` gave, to save tracing it again.
        limits: what ``constrained`` gave. The host then looks at every token before the next is drawn.
        keep: give texts and tokens back; without, they are only emitted, and memory does not grow with them.
    """
    ids, text = run.prompt_ids(prompt), begin(len(seeds), run.metadata.state_size, run.metadata.vocab_size)
    choices: dict[str, Any] = {"seeds": seeds, "stop": stop, "emit": emit, "call": call, "limits": limits, "keep": keep}
    return go_on(run, ids, text, max_new_tokens, options or Options(), **choices)[0]


def go_on(
    run: Run,
    unread: Sequence[int],
    text: Text,
    max_new_tokens: int,
    options: Options,
    *,
    seeds: Sequence[int] = (0,),
    stop: Sequence[str] = (),
    emit: Callable[[int, str], None] = lambda _row, _text: None,
    call: Writer | None = None,
    limits: Constraints | None = None,
    keep: bool = True,
    broken_off: Callable[[], bool] = lambda: False,
) -> tuple[list[Sample], Text]:
    """Read ``unread``, at least one id, behind the B texts that ``text`` stands for, and write; else as ``generate``.

    ``broken_off`` is asked after each chunk. What is given back beside the samples has read all that was written but
    the last token of the longest; behind a stop string it has read more than the sample holds.
    """
    check_not_empty("seeds", seeds)
    check_at_least("max_new_tokens", max_new_tokens, 1)
    check_not_empty("unread", unread)
    call = call or writer(run)
    ids = np.array([unread] * len(seeds), np.int32)
    texts = [
        _Growing(
            Sample(),
            Tail(run.tokenizer, stop),
            partial(emit, row),
            limits and logits_processors.begin(limits, ids[row]),
            keep,
        )
        for row in range(len(seeds))
    ]
    rows = sampling.rows([options] * len(seeds))
    chunk, bias = 1 if limits else CHUNK, _bias(texts, limits)
    for start in range(0, max_new_tokens, chunk):
        if all(growing.sample.finish_reason for growing in texts) or broken_off():
            break
        N = min(chunk, max_new_tokens - start)
        written = call(ids, text, sampling.noise(list(seeds), N, start), rows, bias)
        parts = zip(written.tokens.numpy(), written.logprobs.numpy(), strict=True)
        for growing, (tokens, logprobs) in zip(texts, parts, strict=True):
            _take(growing, tokens, logprobs, run.metadata.end_id)
        ids, text = written.tokens.numpy()[:, -1:], written.text
        bias = _bias(texts, limits)
    for growing in texts:
        _finish(growing, "break" if broken_off() else "length")
    return [growing.sample for growing in texts], text


def search(
    run: Run,
    step: Step,
    prompt: str,
    asked: beam_search.Search,
    *,
    limits: Constraints | None = None,
    stop: Sequence[str] = (),
) -> list[Sample]:
    """Find the best texts by beam search, best first; ``step`` is ``decode.stepper``'s, the others as in ``generate``.

    A stop string ends a text of the search; its tokens count for the score, and it is left out of the text.
    """

    words = [word for word in stop if word]
    reach = max((len(word.encode()) for word in words), default=0)

    def over(tokens: Sequence[int]) -> bool:
        """Look at the end alone: a text that had a stop string before would have ended there."""
        text = _end(run.tokenizer, tokens, reach) if words else ""
        return any(word in text for word in words)

    limits, ids = limits or constrained(run, HostOptions()), run.prompt_ids(prompt)
    found = beam_search.search(step, asked, limits, ids, run.metadata.state_size, over)
    return [of_search(text, Tail(run.tokenizer, stop)) for text in found]


def _end(tokenizer: Tokenizer, tokens: Sequence[int], size: int) -> str:
    """Return the end of a text, whole characters of at least ``size`` bytes; each token has one byte or more."""
    start = max(len(tokens) - size, 0)
    while start and b"\x80" <= tokenizer.piece_bytes(tokens[start])[:1] < b"\xc0":  # within a character
        start -= 1
    return tokenizer.decode(tokens[start:])


def of_search(text: beam_search.Hypothesis, tail: "Tail") -> Sample:
    """A text of a beam search in the form of others."""
    sample = Sample(
        tokens=text.tokens, length=len(text.tokens), logprob=text.logprob, note=text.outlook.note, score=text.score
    )
    growing = _Growing(sample, tail, lambda _: None, text.draft)
    for token in text.tokens:
        _add(growing, tail.push(token))
        if tail.stopped:
            break
    _finish(growing, "stop" if text.ended else "length")
    return sample


def logprobs(run: Run, step: Step, prompt: str, tokens: Sequence[int], K: int) -> list[dict[str, Any]]:
    """What the model itself, before any option, thought of each token of a text, and of the K likeliest in its place.

    A dictionary a token: ``position``, ``id``, ``token`` (as the tokenizer spells it), ``logprob`` over all V ids,
    ``top_logprobs`` (K of ``id``, ``token``, ``logprob``, likeliest first, equals by id).
    """
    check_at_least("K", K, 0)
    state: Any = np.zeros((1, run.metadata.state_size), np.float32)
    for token in run.prompt_ids(prompt):
        logits, state = step(np.array([token]), state)
    told = []
    for position, token in enumerate(tokens):
        row = beam_search.log_softmax(logits)[0]
        likeliest = [_thought(run, int(other), row) for other in np.argsort(-row, kind="stable")[:K]]
        told.append({"position": position, **_thought(run, token, row), "top_logprobs": likeliest})
        logits, state = step(np.array([token]), state)
    return told


def _thought(run: Run, token: int, logprobs: Any) -> dict[str, Any]:
    return {"id": token, "token": run.tokenizer.piece(token), "logprob": round(float(logprobs[token]), 6)}


@dataclass
class _Growing:
    """One text while it is written."""

    sample: Sample
    tail: "Tail"
    emit: Callable[[str], None]
    draft: Draft | None
    keep: bool = True
    parts: list[str] = field(default_factory=list)  # of the sample's text, which they make once it has ended


def _bias(texts: list[_Growing], limits: Constraints | None) -> Any:
    """What to add to the logits of the next token, float32 [B, V] or None; ends the texts that nothing may follow."""
    if limits is None:
        return None
    biases = np.zeros((len(texts), len(limits.fixed)), np.float32)
    for bias, growing in zip(biases, texts, strict=True):
        if growing.draft is None or growing.sample.finish_reason:
            continue
        outlook = logits_processors.outlook(limits, growing.draft)
        if outlook.over:
            growing.sample.note = outlook.note
            _finish(growing, "stop")
        else:
            bias[:] = outlook.bias
    return biases


def _take(growing: _Growing, tokens: Any, logprobs: Any, end_id: int) -> None:
    """Add a chunk of tokens to a text, until it ends."""
    sample, tail = growing.sample, growing.tail
    for token, logprob in zip(tokens, logprobs, strict=True):
        if sample.finish_reason:
            return
        sample.length += 1
        if growing.keep:
            sample.tokens.append(int(token))
        sample.logprob += float(logprob)
        if growing.draft:
            growing.draft = logits_processors.follow(growing.draft, int(token), end_id)
        _add(growing, tail.push(int(token)))
        if token == end_id or tail.stopped:
            _finish(growing, "stop")


def _finish(growing: _Growing, reason: str) -> None:
    """End a text that has not ended, and note what is missing."""
    sample = growing.sample
    if sample.finish_reason:
        return
    sample.finish_reason = reason
    if not growing.tail.stopped:
        _add(growing, growing.tail.flush())
    sample.text = "".join(growing.parts)
    if growing.draft and logits_processors.unfinished(growing.draft):
        sample.note = "; ".join(filter(None, [sample.note, UNFINISHED]))


def _add(growing: _Growing, new: str) -> None:
    if new and growing.keep:
        growing.parts.append(new)
    if new:
        growing.emit(new)


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
        new = self._bytes(token)
        return self._release(self._decoder.decode(new, final=not new), final=False)  # a symbol ends half a character

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
