"""Choosing a token: from logits, one number of noise and five options. One definition for Keras and every export.

``docs/contract.md`` is its specification. All thresholds stand on the same scaled logits, the highest decides, equals
are kept; what is left is renormalised, and the token is the first id whose cumulative probability exceeds the noise.
"""

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.errors import UserError


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


def choose(logits: Any, noise: Any, seen: Any, options: Rows, unsampled: Any) -> Any:
    """Draw one token a row.

    Args:
        logits: float32 [B, V], the model's own.
        noise: float32 [B] in [0, 1).
        seen: bool [B, V], tokens already in prompt or output.
        options: each [B].
        unsampled: bool [V], ids that are never written.

    Returns:
        int32 [B].
    """
    allowed = tf.where(unsampled[tf.newaxis, :], -np.inf, _penalised(logits, seen, options.repetition_penalty))
    greedy = tf.argmax(allowed, axis=1, output_type=tf.int32)  # the lowest id among equals
    hot = options.temperature > 0
    scaled = allowed / tf.where(hot, options.temperature, 1.0)[:, tf.newaxis]
    kept = scaled >= _threshold(scaled, options)[:, tf.newaxis]
    return tf.where(hot, _draw(scaled, kept & ~unsampled[tf.newaxis, :], noise), greedy)


def _penalised(logits: Any, seen: Any, penalty: Any) -> Any:
    """Make what was written less likely (Keskar et al., "CTRL", 2019)."""
    r = penalty[:, tf.newaxis]
    return tf.where(seen, tf.where(logits > 0, logits / r, logits * r), logits)


def _threshold(scaled: Any, options: Rows) -> Any:
    """The lowest scaled logit [B] that top_k, top_p and min_p all keep."""
    V = scaled.shape[1]
    falling = tf.math.top_k(scaled, V).values
    off = (options.top_k <= 0) | (options.top_k > V)
    by_k = tf.gather(falling, tf.where(off, V - 1, options.top_k - 1), batch_dims=1)
    reached = tf.cumsum(tf.nn.softmax(falling), axis=1) < options.top_p[:, tf.newaxis]
    first = tf.minimum(tf.reduce_sum(tf.cast(reached, tf.int32), axis=1), V - 1)
    by_p = tf.gather(falling, tf.where(options.top_p >= 1, V - 1, first), batch_dims=1)
    by_m = falling[:, 0] + tf.math.log(options.min_p)  # log 0 is -inf: off
    return tf.maximum(tf.maximum(by_k, by_p), by_m)


def _draw(scaled: Any, kept: Any, noise: Any) -> Any:
    """The first id whose cumulative probability exceeds the noise; the last one kept, should rounding leave none."""
    probabilities = tf.nn.softmax(tf.where(kept, scaled, -np.inf))
    beyond = kept & (tf.cumsum(probabilities, axis=1) > noise[:, tf.newaxis])
    ids = tf.range(scaled.shape[1], dtype=tf.int32)[tf.newaxis, :]
    last = tf.reduce_max(tf.where(kept, ids, 0), axis=1)
    return tf.minimum(tf.reduce_min(tf.where(beyond, ids, scaled.shape[1]), axis=1), last)
