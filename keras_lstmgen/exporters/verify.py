"""Verify an artifact: open it in its own runtime, and compare its logits and generated texts with Keras."""

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
from keras_lstmgen.generation import decoding_loop, sampling
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator, Loop
from keras_lstmgen.models.inference_step import LARGE
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

MAX_DIFFERENCE = 1e-4  # largest permitted difference of a logit
MIN_IDENTICAL = 0.99  # share of texts of which all tokens must be identical
# The same for a large vocabulary (``inference_step.LARGE``). With many ids, the last bits of the logits change a
# sampled token in some texts (with 33,000 words in 1 to 3 of 100), so a correct artifact would sometimes be below 0.99.
MIN_IDENTICAL_LARGE = 0.95
LOSS_TOKENS = 20_000  # maximum length of the text for the loss
LOSS_PARTS = 8  # parts of this text, read in one batch
LENGTHS = (1, 2, 7, 33)  # prompt lengths in tokens
BATCHES = (1, 3, 8)  # batch sizes
MIXES = (
    Options(),
    Options(temperature=0.0),
    Options(temperature=0.8, top_k=20),
    Options(temperature=1.1, top_p=0.9),
    Options(temperature=0.9, min_p=0.05, repetition_penalty=1.2),
    Options(repetition_penalty=1.1, temperature=0.7, top_k=40, top_p=0.95, min_p=0.01),
)

# A contiguous text, ids [N], or separate examples.
Text = np.ndarray[Any, Any] | example_batches.Examples


@dataclass(frozen=True)
class Proof:
    """Result of the comparison of an artifact with Keras.

    Attributes:
        difference: largest difference of a logit or log-probability; None if it is not finite.
        identical: number of texts that are identical to those of Keras.
        tried: number of generated texts.
        tokens_per_second: generation speed at batch size 1.
        reasons: reasons why the artifact failed; empty if it passed.
        loss_difference: for a quantized artifact, the increase of the loss over Keras in nats per token.
        loss_text: description of the text for the loss.
    """

    difference: float | None
    identical: int
    tried: int
    tokens_per_second: float
    reasons: tuple[str, ...] = ()
    loss_difference: float | None = None
    loss_text: str = ""


class Case(NamedTuple):
    """One text to generate."""

    prompt: np.ndarray[Any, Any]  # int32 [P]
    options: Options
    seed: int


class Reference(NamedTuple):
    """Results of Keras, to compare artifacts with."""

    cases: list[Case]
    tokens: np.ndarray[Any, Any]  # int32 [texts, N], in the order of ``groups``
    ids: np.ndarray[Any, Any]  # int32 [max(BATCHES), P]
    logits: np.ndarray[Any, Any]  # float32 [max(BATCHES), P, V], computed by the Keras model from whole sequences


def compute_reference(run: Run, texts: int, tokens: int) -> Reference:
    """Compute the results of Keras.

    Args:
        run: the run.
        texts: number of texts.
        tokens: length of each text in tokens.
    """
    generator = Generator(run)
    written = generator.generate("", GenerationConfig(max(LENGTHS)), seeds=range(max(texts, *BATCHES)))
    own = [np.array([run.metadata.start_id, *sample.tokens], np.int32) for sample in written]
    ids = np.stack([np.resize(text, max(LENGTHS)) for text in own[: max(BATCHES)]])
    cases = [_case(run, i, text) for i, text in enumerate(own[:texts])]
    expected = [keras_texts(run, generator.loop, group, tokens) for group in groups(cases, [texts])]
    return Reference(cases, np.concatenate(expected), ids, run.model(ids, training=False).numpy())


def _case(run: Run, i: int, text: np.ndarray[Any, Any]) -> Case:
    """Build case number ``i`` with a prompt from a generated text, sampling options and a seed of 64 bits.

    The prompt begins like the result of ``Run.prompt_ids``. It ends before an end token, because otherwise the
    generated text would be empty.
    """
    P = LENGTHS[i % len(LENGTHS)]
    prompt = text[:P] if P == 1 or run.metadata.prompt_start else text[1 : P + 1]
    begun = run.closed([int(token) for token in prompt[: _length(prompt, run.metadata.end_id)]])
    return Case(np.array(begun, np.int32), MIXES[i % len(MIXES)], 2**32 * i + 7 * i)


def _length(prompt: np.ndarray[Any, Any], end_id: int) -> int:
    """Return the number of tokens before the first end token, but at least 1."""
    return max(1, int(np.argmax(prompt == end_id))) if end_id in prompt else len(prompt)


def verify(run: Run, reference: Reference, call: Call) -> Proof:
    """Compare an artifact of a format that must generate the same texts as Keras."""
    texts, tokens = reference.tokens.shape
    difference = _largest_logit_difference(run, reference, call)
    identical = int((_all_texts(run, reference, call, BATCHES) == reference.tokens).all(axis=1).sum())
    reasons = _reasons(difference, identical, texts, needed(run))
    return Proof(_finite(difference), identical, texts, _speed(run, call, tokens), reasons)


def verify_quantized(run: Run, reference: Reference, call: Call, again: Call, max_increase: float) -> Proof:
    """Compare an artifact with rounded weights: its loss must be close to that of Keras, and its texts reproducible.

    Args:
        run: the run.
        reference: results of Keras.
        call: the artifact.
        again: the artifact, opened a second time. It generates the same texts with batch size 1.
        max_increase: largest permitted increase of the loss over Keras, in nats per token.
    """
    texts, tokens = reference.tokens.shape
    generated = _all_texts(run, reference, call, BATCHES)
    repeated = int((_all_texts(run, reference, again, [1]) == generated).all(axis=1).sum())
    text, name = _held_out(run, reference)
    loss = _loss_difference(run, call, text)
    reasons = _reasons_quantized(loss, max_increase, repeated, texts)
    difference = _largest_logit_difference(run, reference, call)
    identical = int((generated == reference.tokens).all(axis=1).sum())
    return Proof(_finite(difference), identical, texts, _speed(run, call, tokens), reasons, _finite(loss), name)


def reasons_in_strings(run: Run, reference: Reference, call: Call) -> tuple[str, ...]:
    """Compare the string signature with Keras, with prompts of all lengths in one request.

    Prompts that do not survive decoding and encoding are skipped.

    Returns:
        The reasons why the artifact failed; empty if it passed.
    """
    ordered = sorted(reference.cases, key=lambda case: len(case.prompt))  # the order of ``reference.tokens``
    prompts = [run.tokenizer.decode(case.prompt) for case in ordered]
    usable = [run.prompt_ids(text) == case.prompt.tolist() for text, case in zip(prompts, ordered, strict=True)]
    if not any(usable):
        return ()
    options = sampling.rows(list(itertools.compress((case.options for case in ordered), usable)))
    expected = [run.tokenizer.decode(text[: _length(text, run.metadata.end_id)]) for text in reference.tokens[usable]]
    written = call(
        "serving_default",
        prompt=np.array([text.encode() for text in itertools.compress(prompts, usable)], object),
        seed=np.array([case.seed for case in itertools.compress(ordered, usable)], np.uint64).view(np.int64),
        max_new_tokens=np.full(len(expected), reference.tokens.shape[1], np.int32),
        **options._asdict(),
    )["text"]
    identical = sum(text.decode() == other for text, other in zip(written, expected, strict=True))
    if identical >= needed(run) * len(expected):
        return ()
    return (f"with the string signature, {identical} of {len(expected)} texts are identical",)


def _finite(number: float) -> float | None:
    """Return a finite number, or None."""
    return number if math.isfinite(number) else None


def needed(run: Run) -> float:
    """Return the share of texts that must be identical."""
    return MIN_IDENTICAL if run.metadata.vocab_size < LARGE else MIN_IDENTICAL_LARGE


def _reasons(difference: float, identical: int, texts: int, needed: float) -> tuple[str, ...]:
    """Return the reasons why an artifact failed."""
    reasons = []
    if not difference < MAX_DIFFERENCE:  # also true for NaN
        reasons.append(f"logits differ by {difference:.2g} (allowed: {MAX_DIFFERENCE:g})")
    if identical < needed * texts:
        reasons.append(f"{identical} of {texts} texts are identical (needed: {needed:.0%})")
    return tuple(reasons)


def _reasons_quantized(loss: float, max_increase: float, repeated: int, texts: int) -> tuple[str, ...]:
    """Return the reasons why a quantized artifact failed; ``loss`` is the increase of the loss over Keras."""
    reasons = []
    if not loss < max_increase:
        reasons.append(f"its loss is {loss:.3g} nats per token above that of Keras (allowed: {max_increase:g})")
    if repeated < texts:
        reasons.append(f"{texts - repeated} of {texts} texts differ when they are generated again")
    return tuple(reasons)


def _held_out(run: Run, reference: Reference) -> tuple[Text, str]:
    """Return the validation text of the run and its name, or texts of Keras if the validation text is not available."""
    settings = run.recipe
    try:
        if "-" in settings.corpus.source:
            raise UserError("the text from standard input is not available")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.ids"
            encode_split(prepared_corpus.source_corpus(settings.corpus), "validation", run.tokenizer, path, "<i4")
            if len(ids := np.memmap(path, "<i4", "r")) > 1:
                return _first(ids, settings), splits.validation_kind(settings.corpus)
    except UserError:
        pass
    return _generated(run, reference, settings.carries), "texts that Keras wrote"


def _first(ids: np.ndarray[Any, Any], settings: recipe.Recipe) -> Text:
    """Return the first ids of a file as an array in memory."""
    if settings.carries:
        return np.array(ids[:LOSS_TOKENS])
    some = example_batches.first_examples(example_batches.find_examples(ids, settings.corpus.is_pairs), LOSS_TOKENS)
    return some._replace(ids=np.array(some.ids))


def _generated(run: Run, reference: Reference, carries: bool) -> Text:
    """Return the texts of Keras: joined to one text if the run carries states, otherwise as separate examples."""
    texts = [text[: _length(text, run.metadata.end_id)] for text in reference.tokens]
    if carries:
        return np.concatenate(texts)[:LOSS_TOKENS]
    ordered = sorted(reference.cases, key=lambda case: len(case.prompt))  # the order of ``reference.tokens``
    whole = [part for case, text in zip(ordered, texts, strict=True) for part in (case.prompt, text)]
    return example_batches.first_examples(example_batches.find_documents(np.concatenate(whole)), LOSS_TOKENS)


def _loss_difference(run: Run, call: Call, text: Text) -> float:
    """Return the increase of the loss of an artifact over Keras, in nats per token."""

    def score(ids: Any, state: Any) -> tuple[Any, Any]:
        out = call("score", ids=ids, state=np.asarray(state, np.float32))
        return tf.constant(out["logprobs"]), out["next_state"]

    if isinstance(text, example_batches.Examples):
        keras, artifact = (
            likelihood.examples_nll(run.weights, text, scorer) for scorer in (likelihood.scorer(run.weights), score)
        )
        return (artifact - keras) / example_batches.target_tokens(text)
    keras, artifact = (likelihood.stream_nll(run.weights, text, LOSS_PARTS, scorer) for scorer in (None, score))
    return (artifact - keras) / (len(text) - 1)


def _largest_logit_difference(run: Run, reference: Reference, call: Call) -> float:
    """Return the largest difference of a logit or log-probability for all batch sizes."""
    return float(np.max([_logit_difference(run, reference, call, B) for B in BATCHES]))


def _all_texts(run: Run, reference: Reference, call: Call, sizes: Sequence[int]) -> Any:
    """Return the texts of an artifact for all cases, int32 [texts, N], with the batch sizes ``sizes`` in turn."""
    N = reference.tokens.shape[1]
    return np.concatenate([artifact_texts(run, call, group, N) for group in groups(reference.cases, sizes)])


def groups(cases: list[Case], sizes: Sequence[int]) -> Iterator[list[Case]]:
    """Iterate over batches of cases with the same prompt length; the order does not depend on ``sizes``."""
    by_length = sorted(cases, key=lambda case: len(case.prompt))
    for _, same in itertools.groupby(by_length, key=lambda case: len(case.prompt)):
        rest = list(same)
        for size in itertools.cycle(sizes):
            if not rest:
                break
            yield rest[:size]
            rest = rest[size:]


def _inputs(group: list[Case], tokens: int) -> tuple[Any, Any, sampling.Rows]:
    """Return the ids [B, P], the noise [B, N] and the sampling options of a batch of cases."""
    ids = np.stack([case.prompt for case in group])
    return (
        ids,
        sampling.noise([case.seed for case in group], tokens),
        sampling.rows([case.options for case in group]),
    )


def keras_texts(run: Run, loop: Loop, group: list[Case], tokens: int) -> Any:
    """Generate N tokens for B cases with Keras: int32 [B, N]. All prompts have the same length."""
    ids, noise, options = _inputs(group, tokens)
    text = decoding_loop.initial_state(len(group), run.metadata.state_size, run.metadata.vocab_size)
    return loop(decoding_loop.Request(ids, noise, options), text).tokens.numpy()


def artifact_texts(run: Run, call: Call, group: list[Case], tokens: int) -> Any:
    """Generate N tokens for B cases with an artifact: int32 [B, N]. All prompts have the same length."""
    ids, noise, options = _inputs(group, tokens)
    state = np.zeros((len(group), run.metadata.state_size), np.float32)
    return call("generate", ids=ids, state=state, noise=noise, **options._asdict())["tokens"]


def _logit_difference(run: Run, reference: Reference, call: Call, B: int) -> float:
    """Return the largest difference from Keras: logits of ``step`` for each token, log-probabilities of ``score``."""
    ids, logits = reference.ids[:B], reference.logits[:B]
    zeros = np.zeros((B, run.metadata.state_size), np.float32)
    state, worst = zeros, 0.0
    for t in range(ids.shape[1]):
        step = call("step", ids=ids[:, t], state=state)
        state, worst = step["next_state"], _worst(worst, step["logits"], logits[:, t])
    scored = call("score", ids=ids, state=zeros)["logprobs"]
    targets = tf.nn.log_softmax(logits[:, :-1]).numpy()
    return _worst(worst, scored, np.take_along_axis(targets, ids[:, 1:, np.newaxis], axis=2)[..., 0])


def _worst(worst: float, found: Any, expected: Any) -> float:
    """Return the larger of ``worst`` and the largest absolute difference; NaN if a value is NaN."""
    return float(np.maximum(worst, np.max(np.abs(found - expected))))


def _speed(run: Run, call: Call, tokens: int) -> float:
    """Return the generation speed in tokens per second at batch size 1, the best of three texts."""
    group = [Case(np.array([run.metadata.start_id], np.int32), Options(), 0)]
    return max(_tokens_per_second(run, call, group, tokens) for _ in range(3))


def _tokens_per_second(run: Run, call: Call, group: list[Case], tokens: int) -> float:
    """Return the generation speed for one text."""
    start = time.perf_counter()
    written = artifact_texts(run, call, group, tokens)[0]
    return _length(written, run.metadata.end_id) / (time.perf_counter() - start)
