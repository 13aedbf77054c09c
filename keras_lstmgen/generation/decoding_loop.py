"""The decoding loop, a TensorFlow graph that feeds the ids of a prompt to the model and generates the ids of a text.

``Generator`` runs this loop, and every exported artifact contains it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.generation import sampling
from keras_lstmgen.models.inference_step import Weights, column, in_parts, pick, put, state_size, step

NO_ID = -1  # a number that is not the id of any token
Step = Callable[[Any, Any], tuple[Any, Any]]  # takes ids [B] and states [B, S]; returns logits [B, V] and states [B, S]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Decoder(NamedTuple):
    """The model and the constants of the decoding loop.

    Attributes:
        weights: weights of the model.
        unsampled: bool [V], True for the ids that the loop never generates.
        end_id: id that ends a text.
    """

    weights: Weights
    unsampled: Mask
    end_id: int


class DecodingState(NamedTuple):
    """State of B texts between two calls of the decoding loop.

    Attributes:
        recurrent: float32 [B, S], LSTM states of the model.
        seen: bool [B, V], True for the ids that occur in the prompt or in the generated text. The repetition penalty
            applies to these ids.
    """

    recurrent: Any
    seen: Any


class Request(NamedTuple):
    """Inputs of one call of the decoding loop.

    Attributes:
        ids: int32 [B, P], the ids to feed to the model before the generation, P ≥ 1.
        noise: float32 [B, N], random numbers from ``sampling.noise``. The loop generates one token per column.
        options: sampling options of the B texts.
        starts: int32 [B, 1], the number of padding columns at the left of ``ids`` in each row. None for no padding.
        limits: int32 [B, 1], maximum number of tokens of each text. None for N. The caller must ignore all tokens of a
            text beyond its limit, because the loop continues until all texts have ended or reached their limits.
        bias: float32 [B, V], a bias from the logits processors. The loop adds the same bias to the logits of each of
            the N tokens. None for no bias.
    """

    ids: Any
    noise: Any
    options: sampling.Rows
    starts: Any = None
    limits: Any = None
    bias: Any = None


class DecodingResult(NamedTuple):
    """Outputs of one call of the decoding loop.

    Attributes:
        tokens: int32 [B, N], the generated ids. Every id after an end token is an end token too.
        logprobs: float32 [B, N], log-probability of each token under the model, before the sampling options apply. 0
            after an end token.
        state: state of the texts after all generated tokens except the last one, which the model has not read.
    """

    tokens: Any
    logprobs: Any
    state: DecodingState


def compile_step(weights: Weights) -> Step:
    """Return a function that feeds one token per text to the model, for decoding loops in Python such as beam search.

    The first call of the function compiles it. If the vocabulary is large, the first call also copies the weights
    (``inference_step.in_parts``).

    Args:
        weights: weights of the model.

    Returns:
        A function that takes ids, int32 [B], and states, float32 [B, S]. It returns two NumPy arrays: the logits of the
        next tokens, float32 [B, V], and the new states, float32 [B, S].
    """

    @cache
    def compiled() -> Any:
        parts = in_parts(weights)
        signature = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, state_size(parts)])]
        return tf.function(lambda ids, state: step(parts, ids, state), input_signature=signature, autograph=False)

    def read(ids: Any, state: Any) -> tuple[Any, Any]:
        logits, state = compiled()(tf.constant(ids, tf.int32), tf.constant(state, tf.float32))
        return logits.numpy(), state.numpy()

    return read


def initial_state(B: int, S: int, V: int) -> DecodingState:
    """Return the state of B empty texts for a model with state size S and vocabulary size V."""
    return DecodingState(tf.zeros((B, S)), tf.zeros((B, V), tf.bool))


def decode(decoder: Decoder, request: Request, state: DecodingState) -> DecodingResult:
    """Feed the ids of a request to the model, and then generate one token per text for each column of the noise.

    The loop ends early when every text has ended or reached its limit. To continue the texts, call this function again
    with the last tokens as ``request.ids``, int32 [B, 1], and with the returned state.

    Args:
        decoder: the model and the constants of the loop.
        request: the ids to feed to the model, the noise and the sampling options.
        state: state of the B texts before ``request.ids``.

    Returns:
        The generated tokens, their log-probabilities and the new state.
    """
    state, end_id = _read(decoder.weights, request, state), decoder.end_id
    N, columns = tf.shape(request.noise)[1], tf.expand_dims(tf.range(tf.shape(request.noise)[1]), 0)
    limits = N if request.limits is None else request.limits
    # Sampling considers only the A allowed ids. For a character vocabulary, this is much faster than using all V ids.
    allowed = np.flatnonzero(~decoder.unsampled).astype(np.int32)
    places = np.arange(len(allowed), dtype=np.int32)[np.newaxis, :]
    ready = sampling.ready(request.options, len(allowed))
    noise = sampling.ready_noise(request.noise, request.options)
    bias = None if request.bias is None else tf.gather(request.bias, allowed, axis=1)

    def is_unfinished(t: Any, last: Any, *_: Any) -> Any:
        return tf.reduce_any((last != end_id) & (t < limits))

    def generate_token(t: Any, last: Any, recurrent: Any, seen: Any, tokens: Any, logprobs: Any) -> tuple[Any, ...]:
        ended, here = last == end_id, columns == t
        logits, recurrent = step(decoder.weights, tf.squeeze(last, 1), recurrent)
        place = sampling.choose(tf.gather(logits, allowed, axis=1), column(noise, t), seen, ready, bias)
        token = tf.where(ended, end_id, tf.gather(allowed, place))
        logprob = tf.where(ended, 0.0, pick(tf.nn.log_softmax(logits), token))
        tokens, logprobs = put(tokens, here, token), put(logprobs, here, logprob)
        return t + 1, token, recurrent, seen | (places == place), tokens, logprobs

    last, seen = column(request.ids, tf.shape(request.ids)[1] - 1), tf.gather(state.seen, allowed, axis=1)
    start = (0, last, state.recurrent, seen, tf.fill(tf.shape(noise), end_id), tf.zeros(tf.shape(noise)))
    _, _, recurrent, seen, tokens, logprobs = tf.while_loop(is_unfinished, generate_token, start)
    return DecodingResult(tokens, logprobs, DecodingState(recurrent, _all_seen(seen, state.seen, allowed)))


def _read(weights: Weights, request: Request, state: DecodingState) -> DecodingState:
    """Feed the ids of all columns except the last to the model, and set the ids of all columns to True in ``seen``.

    The first step of the generation feeds the last column to the model.
    """
    ids, starts, P = request.ids, request.starts, tf.shape(request.ids)[1]

    def read_token(t: Any, recurrent: Any, seen: Any) -> tuple[Any, Any, Any]:
        token = column(ids, t)
        _, after = step(weights, tf.squeeze(token, 1), recurrent)
        if starts is None:
            return t + 1, after, _mark(seen, token)
        begun = t >= starts
        return t + 1, tf.where(begun, after, recurrent), _mark(seen, tf.where(begun, token, NO_ID))

    _, recurrent, seen = tf.while_loop(lambda t, *_: t < P - 1, read_token, (0, *state))
    return DecodingState(recurrent, _mark(seen, column(ids, P - 1)))


def _mark(seen: Any, ids: Any) -> Any:
    """Return a copy of ``seen`` (bool [B, V]) in which the entry of one id per row (``ids``, int32 [B, 1]) is True."""
    return seen | (np.arange(seen.shape[1], dtype=np.int32)[np.newaxis, :] == ids)


def _all_seen(seen: Any, before: Any, allowed: np.ndarray[Any, Any]) -> Any:
    """Return a copy of ``before`` (bool [B, V]) in which all ids that are True in ``seen`` (bool [B, A]) are also True.

    The columns of ``seen`` belong to the A ids in ``allowed``.
    """
    places = np.full(before.shape[1], len(allowed), np.int32)
    places[allowed] = np.arange(len(allowed))
    return before | tf.gather(tf.pad(seen, [[0, 0], [0, 1]]), places, axis=1)
