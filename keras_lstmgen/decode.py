"""The decoding loop, whole in the graph: prompt in, tokens out. It knows ids alone."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_lstmgen.model import Weights, pick, put, step
from keras_lstmgen.sampling import Rows, choose


class Text(NamedTuple):
    """What stands between two calls on the same B texts."""

    state: Any  # float32 [B, S]
    seen: Any  # bool [B, V], tokens already in prompt or output


class Written(NamedTuple):
    """What a call wrote."""

    tokens: Any  # int32 [B, N]; after an end token, end tokens
    logprobs: Any  # float32 [B, N], the model's own; 0 after an end token
    text: Text


def begin(B: int, S: int, V: int) -> Text:
    """Start B texts: nothing read, nothing written."""
    return Text(tf.zeros((B, S)), tf.zeros((B, V), tf.bool))


def write(weights: Weights, ids: Any, text: Text, noise: Any, options: Rows, unsampled: Any, end_id: int) -> Written:
    """Read int32 ``ids`` [B, P], P ≥ 1, then write one token for each column of float32 ``noise`` [B, N].

    All tokens but the last one written are read: to go on, pass it as ``ids`` [B, 1] with the returned ``text``.
    The loop ends early once every row has ended.
    """
    text = _read(weights, ids, text)
    last = ids[:, -1]
    tokens, logprobs = tf.fill(tf.shape(noise), end_id), tf.zeros_like(noise)
    N = tf.shape(noise)[1]

    def going(t: Any, last: Any, *_: Any) -> Any:
        return (t < N) & tf.reduce_any(last != end_id)

    def advance(t: Any, last: Any, state: Any, seen: Any, tokens: Any, logprobs: Any) -> tuple[Any, ...]:
        ended = last == end_id
        logits, state = step(weights, last, state)
        token = choose(logits, noise[:, t], seen, options, unsampled)
        token = tf.where(ended, end_id, token)
        logprob = tf.where(ended, 0.0, pick(tf.nn.log_softmax(logits), token))
        return t + 1, token, state, _mark(seen, token), put(tokens, t, token), put(logprobs, t, logprob)

    start = (0, last, text.state, text.seen, tokens, logprobs)
    _, _, state, seen, tokens, logprobs = tf.while_loop(going, advance, start)
    return Written(tokens, logprobs, Text(state, seen))


def _read(weights: Weights, ids: Any, text: Text) -> Text:
    """Read all but the last of ``ids`` [B, P]; mark them all as seen."""
    P = tf.shape(ids)[1]

    def read(t: Any, state: Any, seen: Any) -> tuple[Any, Any, Any]:
        _, state = step(weights, ids[:, t], state)
        return t + 1, state, _mark(seen, ids[:, t])

    start = (0, *text)
    _, state, seen = tf.while_loop(lambda t, *_: t < P - 1, read, start)
    return Text(state, _mark(seen, ids[:, -1]))


def _mark(seen: Any, ids: Any) -> Any:
    """Add int32 ids [B] to bool [B, V]."""
    return seen | tf.one_hot(ids, seen.shape[1], on_value=True, off_value=False, dtype=tf.bool)
