"""Choosing a token: from logits, one number of noise and five options. One definition for Keras and every export.

``docs/contract.md`` is its specification. All thresholds stand on the same scaled logits, the highest decides, equals
are kept; what is left is renormalised, and the token is the first id whose cumulative probability exceeds the noise.

Probabilities are added up as integers, which give one sum in every order. Sums of tens of thousands of float32 differ
from runtime to runtime by more than the least probabilities, and so would texts.
"""

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.errors import UserError

UNIT = 2.0**36  # of a probability: what a sum of it times two times ``STEPS`` leaves of 64 bits is for rounding
STEPS = 2**24  # of noise and of top_p


@dataclass(frozen=True)
class Options:
    """How a text is drawn from its probabilities; the defaults change nothing. Errors name the option."""

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no runtime could honour; comparisons are written so that NaN is refused too."""
        for name, (holds, wanted) in ranges(*astuple(self)).items():
            if not holds:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give a number {wanted}")


def ranges(r: Any, T: Any, k: Any, p: Any, m: Any) -> dict[str, tuple[Any, str]]:
    """What each option may be, for numbers and tensors alike: ``{name: (holds, in words)}``."""
    return {
        "repetition_penalty": ((r >= 1e-6) & (r <= 1e6), "from 0.000001 to 1000000 (1: off)"),
        "temperature": (
            (T == 0) | (T >= 1e-6) & (T <= 1e6),
            "0 (greedy), or from 0.000001 to 1000000 (1: off)",
        ),
        "top_k": ((k >= 0) & (k <= 2**31 - 1), "from 0 (off) to 2147483647"),
        "top_p": ((p > 0) & (p <= 1), "above 0 and up to 1 (off)"),
        "min_p": ((m >= 0) & (m <= 1), "from 0 (off) to 1"),
    }


class Rows(NamedTuple):
    """The options of B rows, each a tensor [B]; ``top_k`` int32, the others float32."""

    repetition_penalty: Any
    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any


def rows(options: list[Options]) -> Rows:
    """Lay the options of B texts side by side, as arrays [B]."""
    columns = zip(*(astuple(option) for option in options), strict=True)
    kinds = (np.float32, np.float32, np.int32, np.float32, np.float32)
    return Rows(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def noise(seeds: list[int], N: int, start: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Uniform numbers in [0, 1) for positions ``start`` to ``start + N``: 64-bit seeds [B] give float32 [B, N].

    The same everywhere because it is integer arithmetic alone: the hash "lowbias32" (Chris Wellons, 2018).
    """
    low = np.array([seed & 0xFFFFFFFF for seed in seeds], np.uint32)
    high = np.array([(seed >> 32) & 0xFFFFFFFF for seed in seeds], np.uint32)
    golden = np.uint32(0x9E3779B9)
    key = _mix(_mix(low + golden) ^ high)
    positions = np.arange(start, start + N).astype(np.uint32) + golden
    bits = _mix(key[:, np.newaxis] ^ _mix(positions)[np.newaxis, :]) >> np.uint32(8)
    return bits.astype(np.float32) / np.float32(2**24)


def _mix(x: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


class Ready(NamedTuple):
    """The options of B rows over the A ids that may be written, as ``choose`` wants them: worked out once a text."""

    penalty: Any  # float32 [B, 1]
    temperature: Any  # float32 [B, 1]; 1 where greedy
    # int64 [B, K], for the K largest in falling order: the sum of those before it, in STEPS, below which one is kept.
    # What top_p wants; 2, which no sum reaches, where it is off; 0 behind what top_k keeps, and where both are off.
    mass: Any
    lowest: Any  # float32 [B, 1], where K logits are not looked at: -inf where top_k and top_p are off, else inf
    distance: Any  # float32 [B, 1], 0 or below, how far under the largest logit min_p keeps one


def ready(options: Rows, A: int) -> Ready:
    """Work out what stays the same from token to token. A greedy row keeps just the largest logit and its equals.

    Sorting is dear, so no more is sorted than some row needs: all for top_p, k for top_k, one logit where all are off.
    """
    r, T, k, p, m = (tf.expand_dims(option, 1) for option in options)
    greedy = T <= 0
    nucleus, best = ~greedy & (p < 1), ~greedy & (k > 0)
    K = tf.reduce_max(tf.where(nucleus, A, tf.where(best, tf.minimum(k, A), 1)))
    ranked = (best & (tf.expand_dims(tf.range(K), 0) < k)) | (nucleus & (k <= 0))
    return Ready(
        penalty=r,
        temperature=tf.where(greedy, 1.0, T),
        mass=tf.where(ranked, tf.cast(tf.math.ceil(tf.where(nucleus, p, 2.0) * STEPS), tf.int64), 0),
        lowest=tf.where(nucleus | best, np.inf, -np.inf),
        distance=tf.math.log(tf.where(greedy, 1.0, m)),  # log 0 is -inf: off
    )


def ready_noise(noise: Any, options: Rows) -> Any:
    """The noise float32 [B, N] of a text in whole STEPS, int64; 0 where greedy: the lowest id among equals."""
    drawn = tf.where(tf.expand_dims(options.temperature, 1) > 0, noise, 0.0)
    return tf.minimum(tf.cast(drawn * STEPS, tf.int64), STEPS - 1)


def choose(logits: Any, noise: Any, seen: Any, options: Ready, bias: Any = None) -> Any:
    """Draw one id a row out of the A that may be written.

    It runs once a token, and a runtime takes about as long for an operator on so few numbers as for none: what counts
    is how few there are.

    Args:
        logits: float32 [B, A], the model's own.
        noise: int64 [B, 1], a column of ``ready_noise``.
        seen: bool [B, A], ids already in prompt or output.
        options: as ``ready`` gives them.
        bias: float32 [B, A] of the host's options, which no exported graph has: added behind the repetition penalty
            and before the temperature. Minus infinity is never drawn; each row has something else.

    Returns:
        int32 [B, 1], places among the A.
    """
    penalised = _penalised(logits, seen, options.penalty)
    if bias is None:
        scaled = penalised / options.temperature
        return _draw(scaled, scaled >= _threshold(scaled, options), noise)
    scaled = (penalised + bias) / options.temperature
    # Where fewer are left than top_k asks for, its threshold is minus infinity, which would keep the forbidden too.
    return _draw(scaled, (scaled >= _threshold(scaled, options)) & (bias > -np.inf), noise)


def _penalised(logits: Any, seen: Any, penalty: Any) -> Any:
    """Make what was written less likely (Keskar et al., "CTRL", 2019)."""
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def _threshold(scaled: Any, options: Ready) -> Any:
    """The lowest scaled logit [B, 1] that top_k, top_p and min_p all keep."""
    falling = tf.math.top_k(scaled, tf.shape(options.mass)[1]).values
    parts = _parts(falling)
    before = tf.cumsum(parts, axis=1, exclusive=True)  # the sum that each one adds to
    short = before * STEPS < tf.reduce_sum(parts, axis=1, keepdims=True) * options.mass
    wanted = tf.where(short, falling, options.lowest)
    largest = tf.reduce_max(scaled, axis=1, keepdims=True)
    return tf.maximum(tf.reduce_min(wanted, axis=1, keepdims=True), largest + options.distance)


def _draw(scaled: Any, kept: Any, noise: Any) -> Any:
    """The first id whose part of the sum exceeds the noise. Noise is below STEPS, so that the whole sum does."""
    A = scaled.shape[1]
    ids = np.arange(A, dtype=np.int32)[np.newaxis, :]
    # Where the sum first exceeds the noise it has just grown: no id that is not kept is found.
    sums = tf.cumsum(_parts(tf.where(kept, scaled, -np.inf)), axis=1)
    above = sums * STEPS > tf.reduce_max(sums, axis=1, keepdims=True) * noise
    return tf.reduce_min(tf.where(above, ids, A - 1), axis=1, keepdims=True)


def _parts(logits: Any) -> Any:
    """Probabilities [B, A] in whole UNITs, int64; what is less is cut off."""
    return tf.cast(tf.nn.softmax(logits) * UNIT, tf.int64)
