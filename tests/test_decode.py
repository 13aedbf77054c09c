"""The loop in the graph writes what one step after another writes."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.generation import decoding_loop, sampling
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models import builder, inference_step

B, P, N, E, H, V = 3, 4, 9, 5, 6, 8
END = 2
NEVER = np.isin(np.arange(V), [0, 1])
ALLOWED = np.flatnonzero(~NEVER)
WEIGHTS = inference_step.weights_of(builder.build(recipe.Model(embedding_size=E, units=H, layers=2, dropout=0.0), V))
S = inference_step.state_size(WEIGHTS)
IDS = np.random.default_rng(5).integers(3, V, (B, P)).astype(np.int32)
OPTIONS = [Options(repetition_penalty=1.4), Options(temperature=0.5, top_k=3), Options(top_p=0.8)]


@functools.cache
def loop_of(end_id: int) -> Any:
    """The loop, traced once for each length of the noise."""
    decoder = decoding_loop.Decoder(WEIGHTS, NEVER, end_id)
    return tf.function(lambda request, state: decoding_loop.decode(decoder, request, state), autograph=False)


def write(ids: Any, state: decoding_loop.DecodingState, noise: Any, end_id: int = END) -> decoding_loop.DecodingResult:
    request = decoding_loop.Request(tf.constant(ids), tf.constant(noise), sampling.rows(OPTIONS))
    written: decoding_loop.DecodingResult = loop_of(end_id)(request, state)
    return written


def step_by_step(noise: Any, end_id: int) -> tuple[Any, Any]:
    """The same in a Python loop of ``step`` and ``choose``, row by row."""
    tokens, logprobs = np.full((B, N), end_id), np.zeros((B, N))
    for b in range(B):
        state, seen, rows = tf.zeros((1, S)), np.zeros((1, V), bool), sampling.rows(OPTIONS[b : b + 1])
        for token in IDS[b]:
            logits, state = inference_step.step(WEIGHTS, tf.constant([token]), state)
            seen[0, token] = True
        for t in range(N):
            ready, u = sampling.ready(rows, len(ALLOWED)), sampling.ready_noise(noise[b : b + 1, t : t + 1], rows)
            logits_of_allowed = tf.gather(logits, ALLOWED, axis=1)
            token = int(ALLOWED[int(sampling.choose(logits_of_allowed, u, seen[:, ALLOWED], ready)[0, 0])])
            tokens[b, t], logprobs[b, t] = token, tf.nn.log_softmax(logits)[0, token]
            if token == end_id:
                break
            logits, state = inference_step.step(WEIGHTS, tf.constant([token]), state)
            seen[0, token] = True
    return tokens, logprobs


def test_the_loop_equals_step_and_choose_one_after_another() -> None:
    noise = sampling.noise([1, 2, 3], N)
    written = write(IDS, decoding_loop.initial_state(B, S, V), noise)
    tokens, logprobs = step_by_step(noise, END)
    np.testing.assert_array_equal(written.tokens, tokens)
    np.testing.assert_allclose(written.logprobs, logprobs, atol=1e-5)


def test_a_row_that_ended_holds_end_tokens_with_log_probability_zero() -> None:
    ends = 0
    for seed in range(12):
        written = write(IDS, decoding_loop.initial_state(B, S, V), sampling.noise([seed, seed + 50, seed + 90], N))
        for tokens, logprobs in zip(written.tokens.numpy(), written.logprobs.numpy(), strict=True):
            if END in tokens:
                first = int(np.argmax(tokens == END))
                ends += 1
                assert (tokens[first:] == END).all()
                assert logprobs[first] < 0
                assert (logprobs[first + 1 :] == 0).all()
    assert ends > 3


def test_a_prompt_that_ends_a_text_is_followed_by_nothing() -> None:
    ids = IDS.copy()
    ids[1, -1] = END
    written = write(ids, decoding_loop.initial_state(B, S, V), sampling.noise([1, 2, 3], N))
    assert (written.tokens.numpy()[1] == END).all()


def test_going_on_with_the_last_token_equals_writing_at_once() -> None:
    noise, never_ends = sampling.noise([4, 5, 6], N), 0
    whole = write(IDS, decoding_loop.initial_state(B, S, V), noise, never_ends)
    first = write(IDS, decoding_loop.initial_state(B, S, V), noise[:, :4], never_ends)
    second = write(first.tokens[:, -1:], first.state, noise[:, 4:], never_ends)
    np.testing.assert_array_equal(tf.concat([first.tokens, second.tokens], axis=1), whole.tokens)
    np.testing.assert_allclose(second.state.recurrent, whole.state.recurrent, atol=1e-6)
    np.testing.assert_array_equal(second.state.seen, whole.state.seen)


def test_ids_that_are_never_written_are_not() -> None:
    tokens = np.concatenate(
        [
            write(IDS, decoding_loop.initial_state(B, S, V), sampling.noise([s, s + 1, s + 2], N)).tokens
            for s in range(20)
        ]
    )
    assert set(tokens.ravel()) <= set(range(2, V))


def test_seen_is_all_of_prompt_and_output() -> None:
    written = write(IDS, decoding_loop.initial_state(B, S, V), sampling.noise([7, 8, 9], 2), end_id=0)
    for b in range(B):
        assert set(np.flatnonzero(written.state.seen[b])) == {*IDS[b].tolist(), *written.tokens.numpy()[b].tolist()}
