"""The proof that an export carries: opened by its own runtime, it computes and writes what Keras does."""

import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, prepared_corpus, splits
from keras_lstmgen.data.token_cache import encode_split
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import decoding_loop, sampling, text_generation
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models.inference_step import LARGE
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

LARGEST_DIFFERENCE = 1e-4  # in a logit, below which two runtimes count as equal
IDENTICAL = 0.99  # part of the texts that must be the same to the last token
# The same of a large vocabulary (``model.LARGE``): of so many ids the last bits of the logits draw another one in some
# texts of a hundred (of 33,000 words in 1 to 3), so that a sound artifact would now and then fall short of 99.
IDENTICAL_OF_MANY = 0.95
LOSS_TOKENS = 20_000  # of the text that this is measured on, at most
LOSS_PARTS = 8  # of that text, read side by side
LENGTHS = (1, 2, 7, 33)  # of prompts, in tokens
BATCHES = (1, 3, 8)  # rows at once
MIXES = (
    Options(),
    Options(temperature=0.0),
    Options(temperature=0.8, top_k=20),
    Options(temperature=1.1, top_p=0.9),
    Options(temperature=0.9, min_p=0.05, repetition_penalty=1.2),
    Options(repetition_penalty=1.1, temperature=0.7, top_k=40, top_p=0.95, min_p=0.01),
)


Text = (
    np.ndarray[Any, Any] | example_batches.Pairs
)  # ids [N] that go on in each other, or examples that are read by themselves


@dataclass(frozen=True)
class Proof:
    """What was found; ``reasons`` is empty where the artifact holds."""

    difference: float | None  # largest, in logits and log-probabilities; None if it is no finite number
    identical: int
    tried: int
    tokens_per_second: float  # one row at a time
    reasons: tuple[str, ...] = ()
    loss_difference: float | None = None  # of a quantized artifact: nats a token above Keras's
    loss_text: str = ""  # what it was measured on


class Case(NamedTuple):
    """One text to write."""

    prompt: np.ndarray[Any, Any]  # int32 [P]
    options: Options
    seed: int


class Trial(NamedTuple):
    """What Keras computes and writes, to hold any artifact against."""

    cases: list[Case]
    tokens: np.ndarray[Any, Any]  # int32 [texts, N], in the order of ``groups``
    ids: np.ndarray[Any, Any]  # int32 [max(BATCHES), P]
    logits: np.ndarray[Any, Any]  # float32 [max(BATCHES), P, V], by the ``Sequential`` itself, read as a whole


def trial(run: Run, texts: int, tokens: int) -> Trial:
    """Let Keras write ``texts`` texts of ``tokens`` tokens, and read a few."""
    call = text_generation.writer(run)
    written = text_generation.generate(run, "", max(LENGTHS), seeds=range(max(texts, *BATCHES)), call=call)
    own = [np.array([run.metadata.start_id, *sample.tokens], np.int32) for sample in written]
    ids = np.stack([np.resize(text, max(LENGTHS)) for text in own[: max(BATCHES)]])
    cases = [_case(run, i, text) for i, text in enumerate(own[:texts])]
    expected = [keras_texts(run, call, group, tokens) for group in groups(cases, [texts])]
    return Trial(cases, np.concatenate(expected), ids, run.model(ids, training=False).numpy())


def _case(run: Run, i: int, text: np.ndarray[Any, Any]) -> Case:
    """A prompt of one of the lengths, out of what the model itself writes, one of the mixes, a seed of 64 bits.

    It begins as ``Run.prompt_ids`` would have it. One with an end token would end at once: the part before it serves
    as well.
    """
    P = LENGTHS[i % len(LENGTHS)]
    prompt = text[:P] if P == 1 or run.metadata.prompt_start else text[1 : P + 1]
    begun = run.closed([int(token) for token in prompt[: _until(prompt, run.metadata.end_id)]])
    return Case(np.array(begun, np.int32), MIXES[i % len(MIXES)], 2**32 * i + 7 * i)


def _until(prompt: np.ndarray[Any, Any], end_id: int) -> int:
    return max(1, int(np.argmax(prompt == end_id))) if end_id in prompt else len(prompt)


def verify(run: Run, tried: Trial, call: Call) -> Proof:
    """Try an artifact that promises the texts of Keras."""
    texts, tokens = tried.tokens.shape
    difference = _largest_logit_difference(run, tried, call)
    identical = int((_all_texts(run, tried, call, BATCHES) == tried.tokens).all(axis=1).sum())
    reasons = _reasons(difference, identical, texts, needed(run))
    return Proof(_finite(difference), identical, texts, _speed(run, call, tokens), reasons)


def verify_quantized(run: Run, tried: Trial, call: Call, again: Call, largest: float) -> Proof:
    """Try an artifact of rounded weights, opened twice: it writes texts of its own, but the same each time.

    What it promises is a loss at most ``largest`` nats a token above Keras's, and that a seed stands for a text, in
    other company too.
    """
    texts, tokens = tried.tokens.shape
    found = _all_texts(run, tried, call, BATCHES)
    repeated = int((_all_texts(run, tried, again, [1]) == found).all(axis=1).sum())
    text, name = _held_out(run, tried)
    loss = _loss_difference(run, call, text)
    reasons = _reasons_quantized(loss, largest, repeated, texts)
    difference = _largest_logit_difference(run, tried, call)
    identical = int((found == tried.tokens).all(axis=1).sum())
    return Proof(_finite(difference), identical, texts, _speed(run, call, tokens), reasons, _finite(loss), name)


def reasons_in_strings(run: Run, tried: Trial, call: Call) -> tuple[str, ...]:
    """Try the signature in strings: the prompts that are text, all lengths side by side, in one request."""
    ordered = sorted(tried.cases, key=lambda case: len(case.prompt))  # as ``tried.tokens`` is
    prompts = [run.tokenizer.decode(case.prompt) for case in ordered]
    whole = [run.prompt_ids(text) == case.prompt.tolist() for text, case in zip(prompts, ordered, strict=True)]
    if not any(whole):
        return ()
    options = sampling.rows(list(itertools.compress((case.options for case in ordered), whole)))
    expected = [run.tokenizer.decode(text[: _until(text, run.metadata.end_id)]) for text in tried.tokens[whole]]
    written = call(
        "serving_default",
        prompt=np.array([text.encode() for text in itertools.compress(prompts, whole)], object),
        seed=np.array([case.seed for case in itertools.compress(ordered, whole)], np.uint64).view(np.int64),
        max_new_tokens=np.full(len(expected), tried.tokens.shape[1], np.int32),
        **options._asdict(),
    )["text"]
    identical = sum(text.decode() == other for text, other in zip(written, expected, strict=True))
    enough = identical >= needed(run) * len(expected)
    return () if enough else (f"in strings {identical} of {len(expected)} texts are identical",)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def needed(run: Run) -> float:
    """The part of the texts that must be the same."""
    return IDENTICAL if run.metadata.vocab_size < LARGE else IDENTICAL_OF_MANY


def _reasons(difference: float, identical: int, texts: int, needed: float) -> tuple[str, ...]:
    reasons = []
    if not difference < LARGEST_DIFFERENCE:  # NaN is not below anything
        reasons.append(f"logits differ by {difference:.2g} (allowed: {LARGEST_DIFFERENCE:g})")
    if identical < needed * texts:
        reasons.append(f"{identical} of {texts} texts are identical (needed: {needed:.0%})")
    return tuple(reasons)


def _reasons_quantized(loss: float, largest: float, repeated: int, texts: int) -> tuple[str, ...]:
    reasons = []
    if not loss < largest:
        reasons.append(f"its loss is {loss:.3g} nats a token above Keras's (allowed: {largest:g})")
    if repeated < texts:
        reasons.append(f"{texts - repeated} of {texts} texts are others the second time")
    return tuple(reasons)


def _held_out(run: Run, tried: Trial) -> tuple[Text, str]:
    """The text that the run validates on, and its name; where that is not at hand, what Keras has written itself."""
    settings = run.recipe
    try:
        if "-" in settings.corpus.source:
            raise UserError("what came by standard input has gone")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.ids"
            encode_split(prepared_corpus.text(settings.corpus), "validation", run.tokenizer, path, "<i4")
            if len(ids := np.memmap(path, "<i4", "r")) > 1:
                return _first(ids, settings), splits.validates_on(settings.corpus)
    except UserError:
        pass
    return _own(run, tried, settings.carries), "texts that Keras wrote"


def _first(ids: np.ndarray[Any, Any], settings: recipe.Recipe) -> Text:
    """The first ids of a file, in memory."""
    if settings.carries:
        return np.array(ids[:LOSS_TOKENS])
    some = example_batches.some(example_batches.examples(ids, settings.corpus.is_pairs), LOSS_TOKENS)
    return some._replace(ids=np.array(some.ids))


def _own(run: Run, tried: Trial, carries: bool) -> Text:
    """What Keras wrote: one text, or where a run reads examples by themselves, each with its prompt, all of it."""
    texts = [text[: _until(text, run.metadata.end_id)] for text in tried.tokens]
    if carries:
        return np.concatenate(texts)[:LOSS_TOKENS]
    ordered = sorted(tried.cases, key=lambda case: len(case.prompt))  # as ``tried.tokens`` is
    whole = [part for case, text in zip(ordered, texts, strict=True) for part in (case.prompt, text)]
    return example_batches.some(example_batches.documents(np.concatenate(whole)), LOSS_TOKENS)


def _loss_difference(run: Run, call: Call, text: Text) -> float:
    """By how many nats a token the artifact's loss is higher."""

    def score(ids: Any, state: Any) -> tuple[Any, Any]:
        out = call("score", ids=ids, state=np.asarray(state, np.float32))
        return tf.constant(out["logprobs"]), out["next_state"]

    if isinstance(text, example_batches.Pairs):
        keras, artifact = (
            likelihood.examples_nll(run.weights, text, scorer) for scorer in (likelihood.scorer(run.weights), score)
        )
        return (artifact - keras) / example_batches.predicted(text)
    keras, artifact = (likelihood.stream_nll(run.weights, text, LOSS_PARTS, scorer) for scorer in (None, score))
    return (artifact - keras) / (len(text) - 1)


def _largest_logit_difference(run: Run, tried: Trial, call: Call) -> float:
    return float(np.max([_logit_difference(run, tried, call, B) for B in BATCHES]))


def _all_texts(run: Run, tried: Trial, call: Call, sizes: Sequence[int]) -> Any:
    """What the artifact writes in all cases, in batches of ``sizes`` in turn."""
    N = tried.tokens.shape[1]
    return np.concatenate([artifact_texts(run, call, group, N) for group in groups(tried.cases, sizes)])


def groups(cases: list[Case], sizes: Sequence[int]) -> Iterator[list[Case]]:
    """Cases of one prompt length at a time, in batches of ``sizes`` in turn; the same order for any sizes."""
    by_length = sorted(cases, key=lambda case: len(case.prompt))
    for _, same in itertools.groupby(by_length, key=lambda case: len(case.prompt)):
        rest = list(same)
        for size in itertools.cycle(sizes):
            if not rest:
                break
            yield rest[:size]
            rest = rest[size:]


def _inputs(group: list[Case], tokens: int) -> tuple[Any, Any, sampling.Rows]:
    ids = np.stack([case.prompt for case in group])
    return (
        ids,
        sampling.noise([case.seed for case in group], tokens),
        sampling.rows([case.options for case in group]),
    )


def keras_texts(run: Run, call: text_generation.Writer, group: list[Case], tokens: int) -> Any:
    """Tokens int32 [B, N] that Keras writes for B cases with prompts of one length."""
    ids, noise, options = _inputs(group, tokens)
    text = decoding_loop.begin(len(group), run.metadata.state_size, run.metadata.vocab_size)
    return call(ids, text, noise, options).tokens.numpy()


def artifact_texts(run: Run, call: Call, group: list[Case], tokens: int) -> Any:
    """Tokens int32 [B, N] that an artifact writes for B cases with prompts of one length."""
    ids, noise, options = _inputs(group, tokens)
    state = np.zeros((len(group), run.metadata.state_size), np.float32)
    return call("generate", ids=ids, state=state, noise=noise, **options._asdict())["tokens"]


def _logit_difference(run: Run, tried: Trial, call: Call, B: int) -> float:
    """The largest difference to Keras: logits of ``step``, token by token, and log-probabilities of ``score``."""
    ids, logits = tried.ids[:B], tried.logits[:B]
    zeros = np.zeros((B, run.metadata.state_size), np.float32)
    state, worst = zeros, 0.0
    for t in range(ids.shape[1]):
        step = call("step", ids=ids[:, t], state=state)
        state, worst = step["next_state"], _worst(worst, step["logits"], logits[:, t])
    scored = call("score", ids=ids, state=zeros)["logprobs"]
    targets = tf.nn.log_softmax(logits[:, :-1]).numpy()
    return _worst(worst, scored, np.take_along_axis(targets, ids[:, 1:, np.newaxis], axis=2)[..., 0])


def _worst(worst: float, found: Any, expected: Any) -> float:
    return float(np.maximum(worst, np.max(np.abs(found - expected))))  # np.maximum lets NaN through


def _speed(run: Run, call: Call, tokens: int) -> float:
    """Tokens a second, one row, neutral options, the best of three texts."""
    group = [Case(np.array([run.metadata.start_id], np.int32), Options(), 0)]
    return max(_tokens_a_second(run, call, group, tokens) for _ in range(3))


def _tokens_a_second(run: Run, call: Call, group: list[Case], tokens: int) -> float:
    began = time.perf_counter()
    written = artifact_texts(run, call, group, tokens)[0]
    return _until(written, run.metadata.end_id) / (time.perf_counter() - began)
