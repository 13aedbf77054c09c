"""Text generation with a trained run: from a prompt to texts, by sampling or by beam search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen.generation import beam_search, logits_processors, sampling
from keras_lstmgen.generation.decoding_loop import (
    Decoder,
    DecodingResult,
    DecodingState,
    Request,
    Step,
    decode,
    initial_state,
)
from keras_lstmgen.generation.detokenizer import Detokenizer, last_characters
from keras_lstmgen.generation.growing_text import GrowingText, Sample
from keras_lstmgen.generation.logits_processors import Constraints, HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models.inference_step import Weights, in_parts
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import check_at_least, check_not_empty

CHUNK = 16  # tokens per call of the loop: small enough to stream the text, large enough to be fast
Emit = Callable[[int, str], None]
Loop = Callable[[Request, DecodingState], Any]


@dataclass(frozen=True)
class GenerationConfig:
    """How texts are generated.

    Attributes:
        max_new_tokens: maximum number of tokens per text, 1 or more.
        options: sampling options; the defaults sample from the probabilities of the model.
        stop: strings that end a text; the text does not include them.
        host: logits processors, applied to every token outside the graph; None: off, which is faster.
        keep_text: whether the samples hold text and tokens. Without it, texts are only emitted, and the memory does
            not grow with their length.

    Raises:
        UserError: if ``max_new_tokens`` is out of range.
    """

    max_new_tokens: int = 300
    options: Options = field(default_factory=Options)
    stop: Sequence[str] = ()
    host: HostOptions | None = None
    keep_text: bool = True

    def __post_init__(self) -> None:
        """Check the range of ``max_new_tokens``."""
        check_at_least("max_new_tokens", self.max_new_tokens, 1)


def compile_loop(run: Run, weights: Weights | None = None) -> Loop:
    """Return the decoding loop of a run as a ``tf.function`` for requests of any B, P and N.

    Args:
        run: the run.
        weights: weights that training may still change. By default, the weights of the run; those of a large
            vocabulary are copied (``inference_step.in_parts``).
    """
    decoder = Decoder(weights or in_parts(run.weights), unsampled_mask(run), run.metadata.end_id)

    # AutoGraph would write a temporary file, and the loop has no Python control flow to convert.
    @tf.function(reduce_retracing=True, autograph=False)
    def loop(request: Request, state: DecodingState) -> Any:
        return decode(decoder, request, state)

    return loop


def unsampled_mask(run: Run) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the ids that a run never generates, as bool [V]."""
    mask = np.zeros(run.metadata.vocab_size, bool)
    mask[list(run.metadata.unsampled_ids)] = True
    return mask


def compile_constraints(run: Run, options: HostOptions) -> Constraints:
    """Compile logits processors for the vocabulary of a run.

    Raises:
        UserError: if the vocabulary cannot satisfy an option, such as a bias for an unknown token.
    """
    return logits_processors.compiled(options, run.tokenizer, run.metadata.unsampled_ids, run.metadata.end_id)


class Generator:
    """Generates texts with a run. The decoding loop is compiled by the first call and reused by all others.

    Attributes:
        run: the run.
        loop: the compiled decoding loop, for callers that have ids and noise instead of a prompt and seeds.
        constraints: a cached function that compiles ``HostOptions`` for the run. Call it to detect invalid options
            before the first text.
    """

    def __init__(self, run: Run, weights: Weights | None = None) -> None:
        """Create the loop.

        Args:
            run: the run.
            weights: see ``compile_loop``.
        """
        self.run = run
        self.loop: Loop = compile_loop(run, weights)
        self.constraints: Callable[[HostOptions], Constraints] = lru_cache(maxsize=8)(partial(compile_constraints, run))

    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        seeds: Sequence[int] = (0,),
        emit: Emit = lambda _row, _text: None,
    ) -> list[Sample]:
        """Generate one text per seed, all in one batch.

        Args:
            prompt: text to continue; an empty prompt starts at the start symbol.
            config: how to generate.
            seeds: 64-bit seeds, at least one. A seed gives the same text in every batch.
            emit: called with the index of a text and new characters, as soon as these can no longer change.

        Returns:
            One sample per seed.

        Raises:
            UserError: if there is no seed, or if a logits processor does not fit the vocabulary.
        """
        metadata = self.run.metadata
        state = initial_state(len(seeds), metadata.state_size, metadata.vocab_size)
        ids = self.run.prompt_ids(prompt)
        return self.continue_texts(ids, state, config or GenerationConfig(), seeds=seeds, emit=emit)[0]

    def continue_texts(
        self,
        ids: Sequence[int],
        state: DecodingState,
        config: GenerationConfig,
        *,
        seeds: Sequence[int] = (0,),
        emit: Emit = lambda _row, _text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[list[Sample], DecodingState]:
        """Read ids after an earlier state, then generate one text per seed.

        Args:
            ids: the ids to read, at least one, the same for all texts.
            state: state of the texts, one per seed.
            config: how to generate.
            seeds: see ``generate``.
            emit: see ``generate``.
            should_stop: called before each chunk of tokens; True interrupts the generation.

        Returns:
            The samples, and the state after all generated tokens except the last token of the longest text. After a
            stop string the state has read more tokens than the sample shows.

        Raises:
            UserError: see ``generate``; also if there are no ids.
        """
        check_not_empty("seeds", seeds)
        check_not_empty("ids", ids)
        constraints = None if config.host is None else self.constraints(config.host)
        texts = [self._start(ids, config, constraints, partial(emit, row)) for row in range(len(seeds))]
        options, batch = sampling.rows([config.options] * len(seeds)), np.array([ids] * len(seeds), np.int32)
        chunk, bias = 1 if constraints else CHUNK, _bias(texts, constraints)
        for start in range(0, config.max_new_tokens, chunk):
            if all(text.sample.finish_reason for text in texts) or should_stop():
                break
            N = min(chunk, config.max_new_tokens - start)
            result = self.loop(Request(batch, sampling.noise(list(seeds), N, start), options, bias=bias), state)
            self._extend(texts, result)
            batch, state = result.tokens.numpy()[:, -1:], result.state
            bias = _bias(texts, constraints)
        for text in texts:
            text.finish("break" if should_stop() else "length")
        return [text.sample for text in texts], state

    def _start(
        self, ids: Sequence[int], config: GenerationConfig, constraints: Constraints | None, emit: Callable[[str], None]
    ) -> GrowingText:
        draft = logits_processors.begin(constraints, ids) if constraints else None
        return GrowingText(Sample(), Detokenizer(self.run.tokenizer, config.stop), emit, draft, config.keep_text)

    def _extend(self, texts: list[GrowingText], result: DecodingResult) -> None:
        for text, tokens, logprobs in zip(texts, result.tokens.numpy(), result.logprobs.numpy(), strict=True):
            text.extend(tokens, logprobs, self.run.metadata.end_id)


def search(
    run: Run,
    step: Step,
    prompt: str,
    config: beam_search.BeamSearchConfig,
    *,
    constraints: Constraints | None = None,
    stop: Sequence[str] = (),
) -> list[Sample]:
    """Generate the texts with the best scores by beam search.

    Args:
        run: the run.
        step: result of ``decoding_loop.compile_step``.
        prompt: see ``Generator.generate``.
        config: width, length penalty and maximum length of the search.
        constraints: result of ``compile_constraints``; None: off.
        stop: strings that end a text. Their tokens count for the score; the text does not include them.

    Returns:
        At most ``config.beams`` samples, best first.
    """
    words = [word for word in stop if word]
    size = max((len(word.encode()) for word in words), default=0)

    def has_ended(tokens: Sequence[int]) -> bool:
        # Only the end is decoded: with an earlier stop string, the text would have ended there.
        text = last_characters(run.tokenizer, tokens, size) if words else ""
        return any(word in text for word in words)

    constraints, ids = constraints or compile_constraints(run, HostOptions()), run.prompt_ids(prompt)
    hypotheses = beam_search.search(step, config, constraints, ids, run.metadata.state_size, has_ended)
    return [sample_of(hypothesis, Detokenizer(run.tokenizer, stop)) for hypothesis in hypotheses]


def sample_of(hypothesis: beam_search.Hypothesis, detokenizer: Detokenizer) -> Sample:
    """Convert a hypothesis of a beam search to a sample, with an unused detokenizer."""
    tokens, note = hypothesis.tokens, hypothesis.outlook.note
    sample = Sample(tokens=tokens, length=len(tokens), logprob=hypothesis.logprob, note=note, score=hypothesis.score)
    text = GrowingText(sample, detokenizer, draft=hypothesis.draft)
    for token in tokens:
        text.push(token)
        if detokenizer.stopped:
            break
    text.finish("stop" if hypothesis.ended else "length")
    return sample


def token_logprobs(run: Run, step: Step, prompt: str, tokens: Sequence[int], K: int) -> list[dict[str, Any]]:
    """Compute the log-probabilities of the tokens of a text under the model, before all options.

    Args:
        run: the run.
        step: result of ``decoding_loop.compile_step``.
        prompt: prompt of the text.
        tokens: ids of the text.
        K: number of alternatives per token, 0 or more.

    Returns:
        One dictionary per token: ``position``, ``id``, ``token`` (its piece), ``logprob`` over all V ids, and
        ``top_logprobs``: the K most likely tokens as ``id``, ``token`` and ``logprob``, most likely first, ties by id.

    Raises:
        UserError: if K is out of range.
    """
    check_at_least("K", K, 0)
    state: Any = np.zeros((1, run.metadata.state_size), np.float32)
    for token in run.prompt_ids(prompt):
        logits, state = step(np.array([token]), state)
    rows = []
    for position, token in enumerate(tokens):
        row = beam_search.log_softmax(logits)[0]
        top = [_logprob_entry(run, int(other), row) for other in np.argsort(-row, kind="stable")[:K]]
        rows.append({"position": position, **_logprob_entry(run, token, row), "top_logprobs": top})
        logits, state = step(np.array([token]), state)
    return rows


def _logprob_entry(run: Run, token: int, logprobs: Any) -> dict[str, Any]:
    return {"id": token, "token": run.tokenizer.piece(token), "logprob": round(float(logprobs[token]), 6)}


def _bias(texts: list[GrowingText], constraints: Constraints | None) -> Any:
    """Return the bias of the next token, float32 [B, V] or None, and finish the texts that no token may follow."""
    if constraints is None:
        return None
    biases = np.zeros((len(texts), len(constraints.fixed)), np.float32)
    for bias, text in zip(biases, texts, strict=True):
        if text.draft is None or text.sample.finish_reason:
            continue
        outlook = logits_processors.outlook(constraints, text.draft)
        if outlook.over:
            text.sample.note = outlook.note
            text.finish("stop")
        else:
            bias[:] = outlook.bias
    return biases
