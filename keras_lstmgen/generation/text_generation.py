"""Generate texts from a prompt with a trained run, by sampling or by beam search."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
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

CHUNK = 16  # tokens per call of the loop; a smaller number streams more smoothly, a larger number is faster
Emit = Callable[[int, str], None]
Loop = Callable[[Request, DecodingState], Any]


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of the text generation.

    Attributes:
        max_new_tokens: maximum number of tokens per text, 1 or more.
        options: sampling options. With the defaults, tokens are sampled from the probabilities of the model.
        stop: strings that end a text. The text does not include them.
        host: options of the logits processors, which run outside the graph after each token. None for no logits
            processors, which is faster.
        keep_text: whether the samples store their text and tokens. If False, texts are only passed to ``emit``, so that
            the memory does not grow with the length of the texts.

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
    """Return the compiled decoding loop of a run, for requests with any B, P and N.

    TensorFlow traces the loop at the first call, and again only if a call gives other optional inputs of ``Request``.

    Args:
        run: the trained run.
        weights: weights that the loop reads again at each call. Use this argument if a training still changes the
            weights. None for the weights of the run. The loop may then use a copy of the weights
            (``inference_step.in_parts``).
    """
    decoder = Decoder(weights or in_parts(run.weights), unsampled_mask(run), run.metadata.end_id)

    @cache
    def compiled(given: tuple[str, ...]) -> Any:
        specs = _specs(run, given)

        # AutoGraph would write a temporary file, and the loop has no Python control flow to convert.
        @tf.function(input_signature=list(specs.values()), autograph=False)
        def traced(*inputs: Any) -> Any:
            values = dict(zip(specs, inputs, strict=True))
            options = sampling.Rows(*(values.pop(name) for name in sampling.Rows._fields))
            state = DecodingState(*(values.pop(name) for name in DecodingState._fields))
            return decode(decoder, Request(options=options, **values), state)

        return traced

    def loop(request: Request, state: DecodingState) -> Any:
        values = {**request._asdict(), **request.options._asdict(), **state._asdict()}
        given = tuple(name for name, value in values.items() if value is not None and name != "options")
        return compiled(given)(*(values[name] for name in given))

    return loop


def _specs(run: Run, given: Sequence[str]) -> dict[str, tf.TensorSpec]:
    """Return the dtype and the shape of each input of the decoding loop, with any B, P and N."""
    S, V = run.metadata.state_size, run.metadata.vocab_size
    shapes = {
        "ids": ([None, None], tf.int32), "noise": ([None, None], tf.float32), "starts": ([None, 1], tf.int32),
        "limits": ([None, 1], tf.int32), "bias": ([None, V], tf.float32), "recurrent": ([None, S], tf.float32),
        "seen": ([None, V], tf.bool), "top_k": ([None], tf.int32),
    }  # fmt: skip
    return {name: tf.TensorSpec(*shapes.get(name, ([None], tf.float32)), name) for name in given}


def unsampled_mask(run: Run) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a mask of the ids that a run never generates, bool [V]."""
    mask = np.zeros(run.metadata.vocab_size, bool)
    mask[list(run.metadata.unsampled_ids)] = True
    return mask


def compile_constraints(run: Run, options: HostOptions) -> Constraints:
    """Compile the options of the logits processors for the vocabulary of a run.

    Raises:
        UserError: if the vocabulary cannot satisfy an option. An example is a bias for an unknown token.
    """
    return logits_processors.compiled(options, run.tokenizer, run.metadata.unsampled_ids, run.metadata.end_id)


class Generator:
    """Generate texts with a trained run.

    The first call of ``generate`` compiles the decoding loop, and later calls reuse it.

    Attributes:
        run: the trained run.
        loop: the decoding loop. It takes ids and noise instead of a prompt and seeds.
        constraints: a cached function that compiles ``HostOptions`` for the run. Call it to detect invalid options
            before the first text is generated.
    """

    def __init__(self, run: Run, weights: Weights | None = None) -> None:
        """Create the decoding loop of a run.

        Args:
            run: the trained run.
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
            prompt: the text to continue. If it is empty, the texts begin after the start symbol.
            config: settings of the generation. None for the default settings.
            seeds: 64-bit seeds, at least one. The text of a seed does not depend on the other seeds of the batch.
            emit: a function that is called with the index of a text and its new characters when they are final.

        Returns:
            One sample per seed.

        Raises:
            UserError: if ``seeds`` is empty, or if the vocabulary cannot satisfy an option of ``config.host``.
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
        """Continue texts from an earlier state: feed ids to the model, and then generate one text per seed.

        Args:
            ids: ids to feed to the model before the generation, at least one. They are the same for all texts.
            state: state of the texts before ``ids``, with one row per seed.
            config: settings of the generation.
            seeds: see ``generate``.
            emit: see ``generate``.
            should_stop: a function that is called before each chunk of tokens. If it returns True, the generation ends.

        Returns:
            The samples, and the state after all generated tokens except the last token of the longest text. If a stop
            string ended a text, the state of this text may include tokens after the stop string, which are not part of
            the sample.

        Raises:
            UserError: if ``ids`` or ``seeds`` is empty, or if the vocabulary cannot satisfy an option of
                ``config.host``.
        """
        check_not_empty("seeds", seeds)
        check_not_empty("ids", ids)
        texts = [self.begin(ids, config, partial(emit, row)) for row in range(len(seeds))]
        chunks = self.chunks(texts, _request(ids, config, len(seeds)), state, config, seeds)
        while not should_stop() and (after := next(chunks, None)) is not None:
            state = after
        for text in texts:
            text.finish("break" if should_stop() else "length")
        return [text.sample for text in texts], state

    def stream(self, prompt: str, config: GenerationConfig, *, seed: int = 0) -> Iterator[str]:
        """Generate a text, and yield its characters in parts as soon as they are final.

        The caller may stop the iteration at any time. The parts form the text that ``generate`` returns.

        Args:
            prompt: see ``generate``.
            config: settings of the generation.
            seed: 64-bit seed.

        Raises:
            UserError: if the vocabulary cannot satisfy an option of ``config.host``.
        """
        metadata, ids, parts = self.run.metadata, self.run.prompt_ids(prompt), list[str]()
        state = initial_state(1, metadata.state_size, metadata.vocab_size)
        text = self.begin(ids, replace(config, keep_text=False), parts.append)
        for _ in self.chunks([text], _request(ids, config, 1), state, config, [seed]):
            yield from parts
            parts.clear()
        text.finish("length")
        yield from parts

    def chunks(
        self,
        texts: list[GrowingText],
        request: Request,
        state: DecodingState,
        config: GenerationConfig,
        seeds: Sequence[int],
    ) -> Iterator[DecodingState]:
        """Extend texts by chunks of tokens until all texts have ended, and yield the state after each chunk.

        Args:
            texts: the texts, one per seed.
            request: the ids to feed to the model before the first token, and the sampling options; without noise.
            state: state of the texts before these ids.
            config: settings of the generation.
            seeds: see ``generate``.
        """
        constraints = None if config.host is None else self.constraints(config.host)
        chunk, bias = 1 if constraints else CHUNK, _bias(texts, constraints)
        for start in range(0, config.max_new_tokens, chunk):
            if all(text.sample.finish_reason for text in texts):
                break
            N = min(chunk, config.max_new_tokens - start)
            noise = sampling.noise(list(seeds), N, start)
            result = self.loop(request._replace(noise=noise, bias=bias), state)
            self._extend(texts, result)
            request, state = request._replace(ids=result.tokens.numpy()[:, -1:], starts=None), result.state
            bias = _bias(texts, constraints)
            yield state

    def begin(
        self, ids: Sequence[int], config: GenerationConfig, emit: Callable[[str], None] = lambda _: None
    ) -> GrowingText:
        """Create an empty text after the ids of a prompt."""
        draft = None if config.host is None else logits_processors.begin(self.constraints(config.host), ids)
        return GrowingText(Sample(), Detokenizer(self.run.tokenizer, config.stop), emit, draft, config.keep_text)

    def _extend(self, texts: list[GrowingText], result: DecodingResult) -> None:
        """Add the tokens of one call of the loop to the texts."""
        for text, tokens, logprobs in zip(texts, result.tokens.numpy(), result.logprobs.numpy(), strict=True):
            text.extend(tokens, logprobs, self.run.metadata.end_id)


def _request(ids: Sequence[int], config: GenerationConfig, B: int) -> Request:
    """Return a request without noise for B texts after the same ids."""
    return Request(np.array([ids] * B, np.int32), None, sampling.rows([config.options] * B))


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
        run: the trained run.
        step: result of ``decoding_loop.compile_step``.
        prompt: see ``Generator.generate``.
        config: parameters of the search.
        constraints: result of ``compile_constraints``. None for no logits processors.
        stop: strings that end a text. The score includes their tokens, but the text does not include them.

    Returns:
        At most ``config.beams`` samples, best first.
    """
    words = [word for word in stop if word]
    size = max((len(word.encode()) for word in words), default=0)

    def has_ended(tokens: Sequence[int]) -> bool:
        # It is enough to decode the end of the text, because an earlier stop string would have ended the text.
        text = last_characters(run.tokenizer, tokens, size) if words else ""
        return any(word in text for word in words)

    constraints, ids = constraints or compile_constraints(run, HostOptions()), run.prompt_ids(prompt)
    hypotheses = beam_search.search(step, config, constraints, ids, run.metadata.state_size, has_ended)
    return [sample_of(hypothesis, Detokenizer(run.tokenizer, stop)) for hypothesis in hypotheses]


def sample_of(hypothesis: beam_search.Hypothesis, detokenizer: Detokenizer) -> Sample:
    """Convert a hypothesis of a beam search to a sample. ``detokenizer`` must not have received a token yet."""
    tokens, note = hypothesis.tokens, hypothesis.outlook.note
    sample = Sample(tokens=tokens, length=len(tokens), logprob=hypothesis.logprob, note=note, score=hypothesis.score)
    text = GrowingText(sample, detokenizer, draft=hypothesis.draft)
    for token in tokens:
        text.push(token)
        if detokenizer.stopped:
            break
    text.finish("stop" if hypothesis.ended else "length")
    return sample


def _bias(texts: list[GrowingText], constraints: Constraints | None) -> Any:
    """Return the bias of the next token of each text, float32 [B, V], or None if there are no constraints.

    End each text that no token may follow.
    """
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
