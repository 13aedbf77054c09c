"""The decoding loop, whole in the graph: prompt in, tokens out. It knows ids alone."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.generation import sampling
from keras_lstmgen.models.inference_step import Weights, column, in_parts, pick, put, state_size, step

NO_ID = -1
Step = Callable[[Any, Any], tuple[Any, Any]]  # of arrays, as ``stepper`` gives it
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Text(NamedTuple):
    """What stands between two calls on the same B texts."""

    state: Any  # float32 [B, S]
    seen: Any  # bool [B, V], tokens already in prompt or output


class Written(NamedTuple):
    """What a call wrote."""

    tokens: Any  # int32 [B, N]; after an end token, end tokens
    logprobs: Any  # float32 [B, N], the model's own; 0 after an end token
    text: Text


def stepper(weights: Weights) -> Step:
    """Return a function that reads one token a row, for a loop on the host.

    It takes int32 [B] and float32 [B, S], and returns logits [B, V] and the state [B, S]. The first call compiles it
    and, for a large vocabulary, copies the weights (``model.in_parts``).
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


def begin(B: int, S: int, V: int) -> Text:
    """Start B texts: nothing read, nothing written."""
    return Text(tf.zeros((B, S)), tf.zeros((B, V), tf.bool))


def write(
    weights: Weights,
    ids: Any,
    text: Text,
    noise: Any,
    options: sampling.Rows,
    unsampled: Mask,
    end_id: int,
    *,
    first: Any = None,
    limits: Any = None,
    bias: Any = None,
) -> Written:
    """Read int32 ``ids`` [B, P], P ≥ 1, then write one token for each column of float32 ``noise`` [B, N].

    All tokens but the last one written are read: to go on, pass it as ``ids`` [B, 1] with the returned ``text``.
    The loop ends early once every row has ended. ``unsampled``, bool [V], are the ids that are never written.

    Texts of different lengths: what is left of column ``first``, int32 [B, 1], is not read; what a row holds from
    column ``limits``, int32 [B, 1], on means nothing, and the loop does not go on for it.

    ``bias``, float32 [B, V], is what the host's options add to the logits, the same for all N tokens (``constraints``).
    """
    text = _read(weights, ids, text, first)
    N, columns = tf.shape(noise)[1], tf.expand_dims(tf.range(tf.shape(noise)[1]), 0)
    limits = N if limits is None else limits
    # All that has to do with choosing looks at the A ids that may be written alone: of characters these are few.
    allowed = np.flatnonzero(~unsampled).astype(np.int32)
    places = np.arange(len(allowed), dtype=np.int32)[np.newaxis, :]
    ready, noise = sampling.ready(options, len(allowed)), sampling.ready_noise(noise, options)
    bias = None if bias is None else tf.gather(bias, allowed, axis=1)

    def going(t: Any, last: Any, *_: Any) -> Any:
        return tf.reduce_any((last != end_id) & (t < limits))

    def advance(t: Any, last: Any, state: Any, seen: Any, tokens: Any, logprobs: Any) -> tuple[Any, ...]:
        ended, here = last == end_id, columns == t
        logits, state = step(weights, tf.squeeze(last, 1), state)
        place = sampling.choose(tf.gather(logits, allowed, axis=1), column(noise, t), seen, ready, bias)
        token = tf.where(ended, end_id, tf.gather(allowed, place))
        logprob = tf.where(ended, 0.0, pick(tf.nn.log_softmax(logits), token))
        return t + 1, token, state, seen | (places == place), put(tokens, here, token), put(logprobs, here, logprob)

    seen, tokens = tf.gather(text.seen, allowed, axis=1), tf.fill(tf.shape(noise), end_id)
    start = (0, column(ids, tf.shape(ids)[1] - 1), text.state, seen, tokens, tf.zeros(tf.shape(noise)))
    _, _, state, seen, tokens, logprobs = tf.while_loop(going, advance, start)
    return Written(tokens, logprobs, Text(state, _spread(seen, text.seen, allowed)))


def _read(weights: Weights, ids: Any, text: Text, first: Any) -> Text:
    """Read all but the last of ``ids`` [B, P], from column ``first`` on; mark them all as seen."""
    P = tf.shape(ids)[1]

    def advance(t: Any, state: Any, seen: Any) -> tuple[Any, Any, Any]:
        read = column(ids, t)
        _, after = step(weights, tf.squeeze(read, 1), state)
        if first is None:
            return t + 1, after, _mark(seen, read)
        begun = t >= first
        return t + 1, tf.where(begun, after, state), _mark(seen, tf.where(begun, read, NO_ID))

    start = (0, *text)
    _, state, seen = tf.while_loop(lambda t, *_: t < P - 1, advance, start)
    return Text(state, _mark(seen, column(ids, P - 1)))


def _mark(seen: Any, ids: Any) -> Any:
    """Add int32 ids [B, 1] to bool [B, V]."""
    return seen | (np.arange(seen.shape[1], dtype=np.int32)[np.newaxis, :] == ids)


def _spread(seen: Any, before: Any, allowed: np.ndarray[Any, Any]) -> Any:
    """Bring bool [B, A] back to the columns of ``before`` [B, V]."""
    places = np.full(before.shape[1], len(allowed), np.int32)
    places[allowed] = np.arange(len(allowed))
    return before | tf.gather(tf.pad(seen, [[0, 0], [0, 1]]), places, axis=1)
