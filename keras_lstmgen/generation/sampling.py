"""Sampling of one token from logits, by five options and one random number per token.

Keras and every export share this definition; ``docs/contract.md`` specifies it. All thresholds apply to the same
scaled logits, the highest threshold decides, and ties are kept. The remaining probabilities are renormalized. The
sampled token is the first id whose cumulative probability exceeds the random number.

Probabilities are summed as integers, so the sum does not depend on the order. Float32 sums over tens of thousands of
ids differ between runtimes by more than the smallest probabilities, so the generated texts would differ.
"""

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.utils.errors import UserError

UNIT = 2.0**36  # integer units per probability of 1; sums times ``STEPS`` fit into 64 bits
STEPS = 2**24  # resolution of the noise and of top_p


@dataclass(frozen=True)
class Options:
    """Sampling options of one text. The defaults are neutral.

    Attributes:
        repetition_penalty: divides positive and multiplies negative logits of tokens that already occurred (Keskar et
            al., "CTRL", 2019); 1: off.
        temperature: divides the logits; 0: greedy.
        top_k: keeps the k largest logits (Fan et al., "Hierarchical Neural Story Generation", 2018); 0: off.
        top_p: keeps the most likely tokens with a total probability of at least p (Holtzman et al., "The Curious Case
            of Neural Text Degeneration", 2020); 1: off.
        min_p: keeps tokens with at least this share of the largest probability (Nguyen et al., "Turning Up the Heat:
            Min-p Sampling", 2024); 0: off.

    Raises:
        UserError: if an option is out of range; the message names the option.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of every option; NaN is out of range."""
        for name, (is_valid, expected) in ranges(*astuple(self)).items():
            if not is_valid:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give a number {expected}")


def ranges(r: Any, T: Any, k: Any, p: Any, m: Any) -> dict[str, tuple[Any, str]]:
    """Check the range of each option.

    Args:
        r: repetition penalty, a number or a tensor, like all others.
        T: temperature.
        k: top_k.
        p: top_p.
        m: min_p.

    Returns:
        ``{name: (is in range, range in words)}``.
    """
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
    """Sampling options of B texts, each a tensor [B]; ``top_k`` is int32, the others are float32."""

    repetition_penalty: Any
    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any


def rows(options: list[Options]) -> Rows:
    """Convert a list of B options to arrays [B].

    >>> from keras_lstmgen.generation.sampling import Options, rows
    >>> rows([Options(top_k=5), Options()]).top_k.tolist()
    [5, 0]
    """
    columns = zip(*(astuple(option) for option in options), strict=True)
    dtypes = (np.float32, np.float32, np.int32, np.float32, np.float32)
    return Rows(*(np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)))


def noise(seeds: list[int], N: int, start: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Generate uniform random numbers in [0, 1), one per token.

    The numbers are the same on every platform, because they use integer arithmetic only. Source: the hash "lowbias32",
    Chris Wellons, 2018.

    Args:
        seeds: B seeds of 64 bits.
        N: number of positions.
        start: first position.

    Returns:
        float32 [B, N].

    >>> from keras_lstmgen.generation.sampling import noise
    >>> noise([0, 1], 3).round(4).tolist() == noise([0, 1], 4)[:, :3].round(4).tolist()
    True
    >>> [f"{number:.4f}" for number in noise([1], 2)[0]]
    ['0.0018', '0.5605']
    """
    low = np.array([seed & 0xFFFFFFFF for seed in seeds], np.uint32)
    high = np.array([(seed >> 32) & 0xFFFFFFFF for seed in seeds], np.uint32)
    golden = np.uint32(0x9E3779B9)
    key = _mix(_mix(low + golden) ^ high)
    positions = np.arange(start, start + N).astype(np.uint32) + golden
    bits = _mix(key[:, np.newaxis] ^ _mix(positions)[np.newaxis, :]) >> np.uint32(8)
    return bits.astype(np.float32) / np.float32(2**24)


def _mix(x: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Apply the hash "lowbias32" to each number."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


class Ready(NamedTuple):
    """Sampling options of B texts over the A allowed ids, precomputed once per text for ``choose``."""

    penalty: Any  # float32 [B, 1]
    temperature: Any  # float32 [B, 1]; 1 where greedy
    # int64 [B, K], for the K largest logits in descending order: a logit is kept if the probability of those before it
    # is below this value, in STEPS. It is top_p; 2 (never reached) without top_p; 0 beyond top_k or if both are off.
    mass: Any
    lowest: Any  # float32 [B, 1], value in place of removed logits: -inf if top_k and top_p are off, else inf
    distance: Any  # float32 [B, 1], log of min_p: lowest kept logit relative to the largest logit


def ready(options: Rows, A: int) -> Ready:
    """Precompute the values that do not change from token to token.

    Sorting is expensive, so only the K largest logits are sorted, where K is the largest number that any row needs: A
    for top_p, k for top_k, 1 if both are off. A greedy row keeps the largest logit and its ties.

    Args:
        options: options of B texts.
        A: number of allowed ids.

    Returns:
        The precomputed options.
    """
    r, T, k, p, m = (tf.expand_dims(option, 1) for option in options)
    greedy = T <= 0
    nucleus, best = ~greedy & (p < 1), ~greedy & (k > 0)
    K = tf.maximum(tf.reduce_max(tf.where(nucleus, A, tf.where(best, tf.minimum(k, A), 1))), 1)  # 1: of no rows
    ranked = (best & (tf.expand_dims(tf.range(K), 0) < k)) | (nucleus & (k <= 0))
    return Ready(
        penalty=r,
        temperature=tf.where(greedy, 1.0, T),
        mass=tf.where(ranked, tf.cast(tf.math.ceil(tf.where(nucleus, p, 2.0) * STEPS), tf.int64), 0),
        lowest=tf.where(nucleus | best, np.inf, -np.inf),
        distance=tf.math.log(tf.where(greedy, 1.0, m)),  # log 0 is -inf: off
    )


def ready_noise(noise: Any, options: Rows) -> Any:
    """Convert noise, float32 [B, N], to int64 [B, N] in STEPS; greedy rows get 0, which selects the lowest id."""
    sampled = tf.where(tf.expand_dims(options.temperature, 1) > 0, noise, 0.0)
    return tf.minimum(tf.cast(sampled * STEPS, tf.int64), STEPS - 1)


def choose(logits: Any, noise: Any, seen: Any, options: Ready, bias: Any = None) -> Any:
    """Sample one token per row from the A allowed ids.

    The function runs once per token on small tensors, so its cost is the number of operators.

    Args:
        logits: float32 [B, A], logits of the model.
        noise: int64 [B, 1], one column of ``ready_noise``.
        seen: bool [B, A], ids that occur in the prompt or in the output.
        options: result of ``ready``.
        bias: float32 [B, A], added after the repetition penalty and before the temperature; None in exported graphs.
            Ids with minus infinity are never sampled. Each row needs at least one other id.

    Returns:
        int32 [B, 1], indices into the A allowed ids.
    """
    penalised = _penalised(logits, seen, options.penalty)
    if bias is None:
        scaled = penalised / options.temperature
        return _draw(scaled, scaled >= _threshold(scaled, options), noise)
    scaled = (penalised + bias) / options.temperature
    # If fewer than top_k ids are allowed, the threshold is minus infinity, so forbidden ids are excluded explicitly.
    return _draw(scaled, (scaled >= _threshold(scaled, options)) & (bias > -np.inf), noise)


def _penalised(logits: Any, seen: Any, penalty: Any) -> Any:
    """Apply the repetition penalty (Keskar et al., "CTRL", 2019)."""
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def _threshold(scaled: Any, options: Ready) -> Any:
    """Compute the lowest scaled logit that top_k, top_p and min_p all keep: float32 [B, A] to float32 [B, 1]."""
    falling = tf.math.top_k(scaled, tf.shape(options.mass)[1]).values
    parts = _parts(falling)
    before = tf.cumsum(parts, axis=1, exclusive=True)  # total probability of the larger logits
    short = before * STEPS < tf.reduce_sum(parts, axis=1, keepdims=True) * options.mass
    kept = tf.where(short, falling, options.lowest)
    largest = tf.reduce_max(scaled, axis=1, keepdims=True)
    return tf.maximum(tf.reduce_min(kept, axis=1, keepdims=True), largest + options.distance)


def _draw(scaled: Any, kept: Any, noise: Any) -> Any:
    """Return the first id whose cumulative probability exceeds the noise; one exists, as noise is below STEPS."""
    A = scaled.shape[1]
    ids = np.arange(A, dtype=np.int32)[np.newaxis, :]
    # The cumulative sum grows only at kept ids, so the first id that exceeds the noise is a kept one.
    sums = tf.cumsum(_parts(tf.where(kept, scaled, -np.inf)), axis=1)
    above = sums * STEPS > tf.reduce_max(sums, axis=1, keepdims=True) * noise
    return tf.reduce_min(tf.where(above, ids, A - 1), axis=1, keepdims=True)


def _parts(logits: Any) -> Any:
    """Convert logits to probabilities [B, A] in units of 1 / UNIT, int64, rounded down."""
    return tf.cast(tf.nn.softmax(logits) * UNIT, tf.int64)
