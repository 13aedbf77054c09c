"""The proof that an export carries: opened by its own runtime, it computes and writes what Keras does."""

import itertools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen import decode, generation, sampling
from keras_lstmgen.exporters.contract import Call
from keras_lstmgen.run import Run
from keras_lstmgen.sampling import Options

LARGEST_DIFFERENCE = 1e-4  # in a logit, below which two runtimes count as equal
IDENTICAL = 0.99  # part of the texts that must be the same to the last token
LENGTHS = (1, 2, 7, 33)  # of prompts, in tokens
BATCHES = (1, 3, 8)  # rows at once, where an artifact takes more than one
MIXES = (
    Options(),
    Options(temperature=0.0),
    Options(temperature=0.8, top_k=20),
    Options(temperature=1.1, top_p=0.9),
    Options(temperature=0.9, min_p=0.05, repetition_penalty=1.2),
    Options(repetition_penalty=1.1, temperature=0.7, top_k=40, top_p=0.95, min_p=0.01),
)


@dataclass(frozen=True)
class Proof:
    """What was found; ``reasons`` is empty where the artifact holds."""

    difference: float  # largest, in logits and log-probabilities
    identical: int
    tried: int
    tokens_per_second: float  # one row at a time
    reasons: tuple[str, ...] = ()


class Case(NamedTuple):
    """One text to write."""

    prompt: np.ndarray[Any, Any]  # int32 [P]
    options: Options
    seed: int


def cases(run: Run, texts: int) -> list[Case]:
    """Prompts of several lengths, out of what the model itself writes, under all mixes of options, each with its seed."""
    own = generation.generate(run, "", max(LENGTHS), seeds=range(texts))
    start = run.metadata.start_id
    prompts = [np.array([start, *sample.tokens][: LENGTHS[i % len(LENGTHS)]], np.int32) for i, sample in enumerate(own)]
    # A prompt that holds an end token would end at once: the part before it serves as well.
    prompts = [prompt[: _until(prompt, run.metadata.end_id)] for prompt in prompts]
    return [Case(prompt, MIXES[i % len(MIXES)], 2**32 * i + 7 * i) for i, prompt in enumerate(prompts)]


def _until(prompt: np.ndarray[Any, Any], end_id: int) -> int:
    return max(1, int(np.argmax(prompt == end_id))) if end_id in prompt else len(prompt)


def verify(run: Run, call: Call, texts: int, tokens: int, single_row: bool) -> Proof:
    """Try an artifact on ``texts`` texts of ``tokens`` tokens; ``single_row`` where it takes B = 1 alone."""
    tried = cases(run, texts)
    difference = max(_logit_difference(run, call, 1 if single_row else B) for B in BATCHES)
    expected = [row for group in _groups(tried, [texts]) for row in _keras_texts(run, group, tokens)]
    found, seconds = [], 0.0
    for group in _groups(tried, [1] if single_row else BATCHES):
        began = time.perf_counter()
        found += list(_artifact_texts(run, call, group, tokens))
        seconds += time.perf_counter() - began
    identical = sum(np.array_equal(*pair) for pair in zip(expected, found, strict=True))
    return Proof(difference, identical, texts, _speed(run, call, tokens), _reasons(difference, identical, texts))


def _reasons(difference: float, identical: int, texts: int) -> tuple[str, ...]:
    reasons = []
    if not difference < LARGEST_DIFFERENCE:  # NaN is not below anything
        reasons.append(f"logits differ by {difference:.2g} (allowed: {LARGEST_DIFFERENCE:g})")
    if identical < IDENTICAL * texts:
        reasons.append(f"{identical} of {texts} texts are identical (needed: {IDENTICAL:.0%})")
    return tuple(reasons)


def _groups(tried: list[Case], sizes: Any) -> Any:
    """Cases of one prompt length at a time, in batches of ``sizes`` in turn; the same order for any sizes."""
    for _, same in itertools.groupby(sorted(tried, key=lambda case: len(case.prompt)), key=lambda case: len(case.prompt)):
        rest = list(same)
        for size in itertools.cycle(sizes):
            if not rest:
                break
            yield rest[:size]
            rest = rest[size:]


def _inputs(run: Run, group: list[Case], tokens: int) -> tuple[Any, Any, sampling.Rows]:
    ids = np.stack([case.prompt for case in group])
    return ids, sampling.noise([case.seed for case in group], tokens), sampling.rows([case.options for case in group])


def _keras_texts(run: Run, group: list[Case], tokens: int) -> Any:
    ids, noise, options = _inputs(run, group, tokens)
    text = decode.begin(len(group), run.metadata.state_size, run.metadata.vocab_size)
    return generation.writer(run)(ids, text, noise, options).tokens.numpy()


def _artifact_texts(run: Run, call: Call, group: list[Case], tokens: int) -> Any:
    ids, noise, options = _inputs(run, group, tokens)
    state = np.zeros((len(group), run.metadata.state_size), np.float32)
    return call("generate", ids=ids, state=state, noise=noise, **options._asdict())["tokens"]


def _logit_difference(run: Run, call: Call, B: int) -> float:
    """The largest difference to the ``Sequential`` itself, read as a whole: logits of ``step``, log-probabilities of ``score``."""
    P = max(LENGTHS)
    ids = np.stack([np.resize(case.prompt, P) for case in cases(run, 4 * B)[3::4]])
    logits = run.model(ids, training=False).numpy()
    state, worst = np.zeros((B, run.metadata.state_size), np.float32), 0.0
    for t in range(P):
        step = call("step", ids=ids[:, t], state=state)
        state, worst = step["next_state"], _worst(worst, step["logits"], logits[:, t])
    scored = call("score", ids=ids, state=np.zeros_like(state))["logprobs"]
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
    written = _artifact_texts(run, call, group, tokens)[0]
    return _until(written, run.metadata.end_id) / (time.perf_counter() - began)
