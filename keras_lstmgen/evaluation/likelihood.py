"""Compute the negative log-likelihood of text under a model, and convert it to other units."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.data.example_batches import Examples
from keras_lstmgen.layers import native_ops
from keras_lstmgen.layers.attention import attend
from keras_lstmgen.layers.pointer_generator import in_windows, read_by
from keras_lstmgen.models.inference_step import Weights, for_each_member, join_state, score, split_state, state_size
from keras_lstmgen.tokenizers.tokenizer import END, Tokenizer
from keras_lstmgen.utils.errors import check_at_least

WINDOW = 256  # maximum number of consecutive tokens that one call scores; a power of two
MAX_LOGITS = 1 << 25  # maximum number of logits that one call computes, to limit the memory for a large vocabulary
ROWS = 64  # maximum number of examples that one call scores
# If a text is divided into parts, the LSTM reads this number of tokens before each part without scoring them.
WARM_UP = WINDOW
FRESH_WINDOWS = 1000  # default number of random windows; the LSTM state is zero at the start of each window
Scorer = Callable[..., Any]
OnProgress = Callable[[int], None]


def ignore_progress(_: int) -> None:
    """Accept a progress update and do nothing."""


def scorer(weights: Weights) -> Scorer:
    """Compile a function that computes the log-probabilities of tokens.

    The function uses the native LSTM kernel if it is installed and there is no GPU. The results are the same as without
    the kernel.

    Args:
        weights: weights of the model.

    Returns:
        A function that takes int32 ids of shape [B, P] and a float32 state of shape [B, S]. It returns
        the float32 log-probabilities of ``ids[:, 1:]`` (shape [B, P - 1]) and the next state (shape [B, S]). TensorFlow
        traces the function once for all values of B and P.
    """
    read = _score_by_layer if native_ops.library() and not tf.config.list_logical_devices("GPU") else score
    signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, state_size(weights)])]
    return tf.function(lambda ids, state: read(weights, ids, state), input_signature=signature, autograph=False)


def _score_by_layer(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Compute log-probabilities with the native LSTM kernel.

    Each layer processes the whole window before the next layer starts. The arguments and
    results are those of ``inference_step.score``.
    """
    logits, state = for_each_member(weights, lambda member, part: _logits(member, ids[:, :-1], part), state)
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits), state


def _logits(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Compute the logits of one member of an ensemble with the native LSTM kernel.

    Args:
        weights: weights of the member.
        ids: int32 tensor of shape [B, T].
        state: float32 tensor of shape [B, S].

    Returns:
        The logits of shape [B, T, V], and the next state of shape [B, S].
    """
    x, next_states = tf.gather(weights.embedding, ids), []
    parts, memory = split_state(weights, state)
    for cell, h, c in zip(weights.cells, parts[::2], parts[1::2], strict=True):
        x, (h, c) = native_ops.lstm(x, (h, c), cell)
        next_states += [h, c]
    if weights.heads:
        previous_memory = memory
        x, memory, attention_weights = attend(weights.heads, x, memory, ids if weights.gate else None)
    logits = tf.einsum("bth,vh->btv" if weights.tied else "bth,hv->btv", x, weights.output) + weights.output_bias
    if weights.gate:
        logits = in_windows(weights.gate, x, logits, attention_weights, read_by(previous_memory, ids))
    return logits, join_state(next_states, memory)


def stream_nll(
    weights: Weights,
    ids: NDArray[Any],
    parts: int = 1,
    score: Scorer | None = None,
    on_progress: OnProgress = ignore_progress,
) -> float:
    """Compute the negative log-likelihood of a text of N tokens.

    The function scores each token except the first, given all tokens before it. If ``parts`` is greater than 1, the
    function divides the text into parts and scores the parts in parallel. The result is then approximate, because the
    LSTM starts from a zero state ``WARM_UP`` tokens before each part except the first.

    Args:
        weights: weights of the model.
        ids: integer array of shape [N] with the ids of the text.
        parts: number of parts that are scored in parallel.
        score: a function that ``scorer`` returned. By default, a new one is compiled.
        on_progress: function that is called with the number of tokens scored since its last call.

    Returns:
        The negative log-likelihood in nats, summed over N - 1 tokens in float64.

    Raises:
        UserError: if ``parts`` is less than 1.
    """
    check_at_least("parts", parts, 1)
    score = score or scorer(weights)
    N = len(ids) - 1
    length = -(-N // parts)  # number of targets in a part; the last part may have fewer
    warm_up = WARM_UP if parts > 1 else 0
    first = np.arange(parts)[:, np.newaxis] * length - warm_up
    state = tf.zeros((parts, state_size(weights)))
    total = 0.0
    # The window size and WARM_UP are powers of two, so the warm-up ends at the end of a window.
    window = window_size(int(weights.output_bias.shape[0]), parts)
    for start in range(0, warm_up + length, window):
        positions = first + np.arange(start, min(start + window, warm_up + length) + 1)[np.newaxis, :]
        if start == warm_up:  # no text precedes the first part, so its state is reset to zero
            state *= (np.arange(parts) > 0)[:, np.newaxis]
        logprobs, state = score(np.asarray(ids[np.clip(positions, 0, N)], np.int32), state)
        targets = positions[:, 1:]
        is_scored = (targets > first + warm_up) & (targets <= N)
        total -= float(np.sum(logprobs.numpy(), where=is_scored, dtype=np.float64))
        on_progress(int(is_scored.sum()))
    return total


def examples_nll(weights: Weights, pairs: Examples, score: Scorer, on_progress: OnProgress = ignore_progress) -> float:
    """Compute the negative log-likelihood of the targets of examples, given their sources.

    Each batch contains examples of similar lengths. Memory use does not grow with the length of an example, because a
    batch is scored in windows of at most ``WINDOW`` tokens. The LSTM state is carried from one window to the next.

    Args:
        weights: weights of the model.
        pairs: the examples.
        score: a function that ``scorer`` returned.
        on_progress: function that is called with the number of examples scored since its last call.

    Returns:
        The negative log-likelihood in nats, summed over the tokens of all targets in float64.
    """
    total, V = 0.0, int(weights.output_bias.shape[0])
    for numbers in _by_length(pairs, V):
        state: Any = tf.zeros((len(numbers), state_size(weights)))
        longest = int(np.diff(pairs.starts)[numbers].max())
        window = window_size(V, len(numbers))
        for first in range(0, longest - 1, window):
            ids, is_target = _window(pairs, numbers, first, min(window, longest - 1 - first))
            logprobs, state = score(ids, state)
            total -= float(np.sum(logprobs.numpy(), where=is_target, dtype=np.float64))
        on_progress(len(numbers))
    return total


def window_size(V: int, B: int) -> int:
    """Return the number of consecutive tokens that one call scores.

    The number is the largest power of two with which a call computes at most ``MAX_LOGITS`` logits. The number is at
    least 1 and at most ``WINDOW``.

    Args:
        V: vocabulary size.
        B: number of rows in a batch.

    >>> from keras_lstmgen.evaluation.likelihood import window_size
    >>> window_size(V=100, B=1), window_size(V=50_000, B=64)
    (256, 8)
    """
    limit = MAX_LOGITS // (B * V)
    return min(WINDOW, 1 << max(limit.bit_length() - 1, 0))


def _window(
    pairs: Examples, numbers: NDArray[np.int64], first: int, T: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """From each of B examples, extract a window of T tokens and the token that follows the window.

    Positions after the end of an example are filled with end symbols.

    Args:
        pairs: all examples.
        numbers: int64 array of shape [B] with the indices of the examples.
        first: position at which the window begins. It is the same in all examples.
        T: length of the window.

    Returns:
        The ids, int32 of shape [B, T + 1], and a bool array of shape [B, T]. An entry of the bool array is True if the
        token at the same position of ``ids[:, 1:]`` is part of a target.
    """
    starts, ends = pairs.starts[numbers, np.newaxis], pairs.starts[numbers + 1, np.newaxis]
    positions = starts + np.arange(first, first + T + 1)
    ids = np.where(positions < ends, pairs.ids[np.minimum(positions, ends - 1)], END)
    is_target = (positions > pairs.targets[numbers, np.newaxis]) & (positions < ends)
    return ids.astype(np.int32), is_target[:, 1:]


def _by_length(pairs: Examples, V: int) -> Iterator[NDArray[np.int64]]:
    """Divide examples into batches of similar lengths, and yield the indices of the examples in each batch.

    The longest examples come first. The batch size is limited so that one call computes at most ``MAX_LOGITS`` logits.
    """
    lengths = np.diff(pairs.starts)
    order = np.argsort(lengths, kind="stable")
    while len(order):
        rows = max(1, min(ROWS, MAX_LOGITS // (V * min(int(lengths[order[-1]]), WINDOW))))
        order, batch = order[:-rows], order[-rows:]
        yield batch


def windows_cross_entropy(
    weights: Weights, ids: NDArray[Any], length: int = 256, windows: int = FRESH_WINDOWS, score: Scorer | None = None
) -> float:
    """Compute the mean cross entropy of random windows of a text, with a zero state at the start of each window.

    Transformers with a limited context are evaluated in the same way, for example by ``estimate_loss`` in nanoGPT. The
    result is usually higher than if the LSTM state were carried over the whole text.

    The windows begin at random positions with a fixed seed, and may overlap. If the text has at most ``windows``
    possible positions, each position is used once. A text that is shorter than a window is scored as one window.

    Args:
        weights: weights of the model.
        ids: integer array of shape [N] with the ids of the text. N must be at least 2.
        length: number of scored tokens in a window.
        windows: number of windows.
        score: a function that ``scorer`` returned. By default, a new one is compiled.

    Returns:
        The cross entropy in nats per token.

    Raises:
        UserError: if an argument is too small.
    """
    for name, value, low in (("ids: their number", len(ids), 2), ("length", length, 1), ("windows", windows, 1)):
        check_at_least(name, value, low)
    score = score or scorer(weights)
    length = min(length, len(ids) - 1)
    starts = _window_starts(len(ids) - length, windows)
    rows = max(1, min(64, MAX_LOGITS // (length * int(weights.output_bias.shape[0]))))
    total = 0.0
    for batch in np.split(starts, range(rows, len(starts), rows)):
        positions = batch[:, np.newaxis] + np.arange(length + 1)
        logprobs, _ = score(np.asarray(ids[positions], np.int32), tf.zeros((len(batch), state_size(weights))))
        total -= float(np.sum(logprobs.numpy(), dtype=np.float64))
    return total / (len(starts) * length)


def _window_starts(positions: int, windows: int) -> NDArray[np.int64]:
    """Return the start positions of windows: all positions if there are at most ``windows``, else random positions."""
    if positions <= windows:
        return np.arange(positions)
    return np.random.default_rng(0).integers(positions, size=windows)


def without_first_token(counts: dict[str, int], first: int, tokenizer: Tokenizer) -> dict[str, int]:
    """Subtract the first token of a stream from the counts of the stream, because the first token is not scored.

    Args:
        counts: counts of the stream. Only the numbers of tokens, characters and bytes are reduced.
        first: id of the first token.
        tokenizer: tokenizer of the stream.
    """
    text = tokenizer.piece_bytes(first)
    first_counts = {"tokens": 1, "characters": len(text.decode("utf-8", "ignore")), "bytes": len(text)}
    return counts | {name: counts[name] - number for name, number in first_counts.items()}


def loss_in_units(nll: float, counts: dict[str, int]) -> dict[str, float]:
    """Convert the negative log-likelihood of a text to the units in which losses are reported.

    The units are nats per token, bits per character, bits per byte, perplexity per token and perplexity per word.

    Args:
        nll: negative log-likelihood of the text in nats.
        counts: number of tokens, characters, bytes and words of the text.

    >>> from keras_lstmgen.evaluation.likelihood import loss_in_units
    >>> loss = loss_in_units(6.0, {"tokens": 4, "characters": 8, "bytes": 8, "words": 2})
    >>> round(loss["nats_per_token"], 2), round(loss["perplexity"], 2), round(loss["bits_per_byte"], 2)
    (1.5, 4.48, 1.08)
    """
    bits = nll / math.log(2)
    return {
        "nats_per_token": nll / max(counts["tokens"], 1),
        "bits_per_character": bits / max(counts["characters"], 1),
        "bits_per_byte": bits / max(counts["bytes"], 1),
        "perplexity": _finite_exp(nll / max(counts["tokens"], 1)),
        "word_perplexity": _finite_exp(nll / max(counts["words"], 1)),
    }


def _finite_exp(x: float) -> float:
    """Return e^x, or e^709 if x is greater than 709.

    e^709 is close to the largest float64. The limit is necessary because JSON cannot represent infinity.
    """
    return math.exp(min(x, 709.0))
