"""Sample one token from logits, with five sampling options and one random number per token.

Keras and all exported artifacts sample in the same way. ``docs/contract.md`` specifies the algorithm:

1. Apply the repetition penalty, and divide the logits by the temperature. The results are the scaled logits.
2. From the scaled logits, compute a threshold for each of ``top_k``, ``top_p`` and ``min_p``. Keep every token whose
   scaled logit is greater than or equal to the highest of the three thresholds.
3. Renormalize the probabilities of the kept tokens.
4. Select the first id whose cumulative probability exceeds the random number.

Probabilities are summed as integers, because a sum of integers does not depend on the order of summation. With float32
sums, two runtimes could generate different texts, because sums over tens of thousands of ids differ between runtimes by
more than the smallest probabilities.
"""

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lstmgen.utils.errors import UserError

UNIT = 2.0**36  # integer that represents the probability 1; a total of UNIT times STEPS fits into 64 bits
STEPS = 2**24  # the noise and top_p are rounded to multiples of 1 / STEPS


@dataclass(frozen=True)
class Options:
    """Sampling options of one text. With the default values, tokens are sampled from the probabilities of the model.

    Attributes:
        repetition_penalty: a number that divides the positive logits and multiplies the negative logits of all tokens
            that already occur in the prompt or in the text (Keskar et al., "CTRL", 2019). 1 for no penalty.
        temperature: a number by which all logits are divided. 0 for greedy decoding.
        top_k: keep only the k most likely tokens (Fan et al., "Hierarchical Neural Story Generation", 2018). 0 to keep
            all tokens.
        top_p: keep the most likely tokens until their total probability reaches ``top_p``, and no others (Holtzman et
            al., "The Curious Case of Neural Text Degeneration", 2020). 1 to keep all tokens.
        min_p: keep only the tokens whose probability is at least ``min_p`` times the largest probability (Nguyen et
            al., "Turning Up the Heat: Min-p Sampling", 2024). 0 to keep all tokens.

    Raises:
        UserError: if an option is out of range. The message names the option.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of every option. NaN is out of range."""
        for name, (is_valid, expected) in ranges(*astuple(self)).items():
            if not is_valid:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give a number {expected}")


def ranges(r: Any, T: Any, k: Any, p: Any, m: Any) -> dict[str, tuple[Any, str]]:
    """Check the range of each option. Every argument can be a number or a tensor.

    Args:
        r: repetition penalty.
        T: temperature.
        k: top_k.
        p: top_p.
        m: min_p.

    Returns:
        A dictionary that maps the name of each option to a tuple. The tuple contains a bool or bool tensor, which is
        True if the option is in range, and a description of the range.
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
    """Sampling options of B texts. Each option has the shape [B]. ``top_k`` is int32, and the others are float32."""

    repetition_penalty: Any
    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any


def rows(options: list[Options]) -> Rows:
    """Convert the options of B texts to arrays of shape [B].

    >>> from keras_lstmgen.generation.sampling import Options, rows
    >>> rows([Options(top_k=5), Options()]).top_k.tolist()
    [5, 0]
    """
    columns = zip(*(astuple(option) for option in options), strict=True)
    dtypes = (np.float32, np.float32, np.int32, np.float32, np.float32)
    return Rows(*(np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)))


def noise(seeds: list[int], N: int, start: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Generate one uniform random number in [0, 1) for each token of B texts.

    Each number is a hash of the seed and of the position of the token. The computation uses only integer arithmetic, so
    the numbers are the same on every platform. Source of the hash: "lowbias32", Chris Wellons, 2018.

    Args:
        seeds: B seeds of 64 bits, one per text.
        N: number of tokens per text.
        start: position of the first token in its text.

    Returns:
        The random numbers, float32 [B, N].

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
    """For each number, return its hash "lowbias32". The result has the same shape and the dtype uint32."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


class Ready(NamedTuple):
    """Values that ``ready`` computes once per text from the sampling options, and that ``choose`` uses for each token.

    Attributes:
        penalty: float32 [B, 1], the repetition penalty.
        temperature: float32 [B, 1], the temperature. 1 for a greedy row.
        mass: int64 [B, K], one limit for each of the K largest logits, in descending order of the logits. ``choose``
            keeps a logit if the total probability of all larger logits is below the limit of this logit. Limits are in
            multiples of 1 / STEPS. A limit is top_p, or 2 if top_p is off, because no probability reaches 2. If top_k
            is on, the limits after the first k are 0. In a row that is greedy or has neither top_k nor top_p, all
            limits are 0.
        lowest: float32 [B, 1], a number that replaces all logits that are not kept, before ``choose`` computes the
            smallest kept logit. The number is minus infinity in a row that is greedy or has neither top_k nor top_p,
            and infinity in any other row.
        distance: float32 [B, 1], the natural logarithm of min_p, or 0 in a greedy row. The threshold of min_p is the
            largest scaled logit plus this number.
    """

    penalty: Any
    temperature: Any
    mass: Any
    lowest: Any
    distance: Any


def ready(options: Rows, A: int) -> Ready:
    """Compute the values of the sampling options that are the same for all tokens of a text.

    ``choose`` sorts only the K largest logits, because sorting is expensive. A row with top_p needs all A logits. A row
    with only top_k needs k logits, and any other row needs 1. K is the largest of these numbers in the batch. A greedy
    row keeps the largest logit and all logits equal to the largest.

    Args:
        options: sampling options of B texts.
        A: number of allowed ids.

    Returns:
        The values for ``choose``.
    """
    r, T, k, p, m = (tf.expand_dims(option, 1) for option in options)
    greedy = T <= 0
    nucleus, best = ~greedy & (p < 1), ~greedy & (k > 0)
    K = tf.maximum(tf.reduce_max(tf.where(nucleus, A, tf.where(best, tf.minimum(k, A), 1))), 1)  # ≥ 1, even if B is 0
    ranked = (best & (tf.expand_dims(tf.range(K), 0) < k)) | (nucleus & (k <= 0))
    return Ready(
        penalty=r,
        temperature=tf.where(greedy, 1.0, T),
        mass=tf.where(ranked, tf.cast(tf.math.ceil(tf.where(nucleus, p, 2.0) * STEPS), tf.int64), 0),
        lowest=tf.where(nucleus | best, np.inf, -np.inf),
        distance=tf.math.log(tf.where(greedy, 1.0, m)),  # log(0) is -inf, which keeps all logits
    )


def ready_noise(noise: Any, options: Rows) -> Any:
    """Convert random numbers (float32 [B, N]) to integer multiples of 1 / STEPS (int64 [B, N]).

    The numbers of a greedy row become 0, so that ``choose`` selects the lowest id among the kept ids of this row.
    """
    sampled = tf.where(tf.expand_dims(options.temperature, 1) > 0, noise, 0.0)
    return tf.minimum(tf.cast(sampled * STEPS, tf.int64), STEPS - 1)


def choose(logits: Any, noise: Any, seen: Any, options: Ready, bias: Any = None) -> Any:
    """Sample one token per row from the A allowed ids.

    The graph runs this function for each token. The function uses few operators, because its time depends on their
    number. The size of the tensors matters less, because the tensors are small.

    Args:
        logits: float32 [B, A], logits of the model.
        noise: int64 [B, 1], one column of the result of ``ready_noise``.
        seen: bool [B, A], True for the ids that occur in the prompt or in the output.
        options: result of ``ready``.
        bias: float32 [B, A], numbers that are added to the logits after the repetition penalty and before the division
            by the temperature. An id with a bias of minus infinity is never sampled. Each row must contain at least one
            finite bias. None for no bias, as in exported graphs.

    Returns:
        The indices of the sampled tokens among the A allowed ids, int32 [B, 1].
    """
    penalised = _penalised(logits, seen, options.penalty)
    if bias is None:
        scaled = penalised / options.temperature
        return _draw(scaled, scaled >= _threshold(scaled, options), noise)
    scaled = (penalised + bias) / options.temperature
    # If the bias leaves fewer than top_k ids, the threshold is minus infinity and excludes no id. The condition on the
    # bias therefore excludes the forbidden ids.
    return _draw(scaled, (scaled >= _threshold(scaled, options)) & (bias > -np.inf), noise)


def _penalised(logits: Any, seen: Any, penalty: Any) -> Any:
    """Return the logits (float32 [B, A]) after the repetition penalty (Keskar et al., "CTRL", 2019)."""
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def _threshold(scaled: Any, options: Ready) -> Any:
    """For each row, return the highest of the thresholds of top_k, top_p and min_p, float32 [B, 1].

    The argument ``scaled`` contains the scaled logits, float32 [B, A].
    """
    falling = tf.math.top_k(scaled, tf.shape(options.mass)[1]).values
    parts = _parts(falling)
    before = tf.cumsum(parts, axis=1, exclusive=True)  # total probability of the larger logits
    short = before * STEPS < tf.reduce_sum(parts, axis=1, keepdims=True) * options.mass
    kept = tf.where(short, falling, options.lowest)
    largest = tf.reduce_max(scaled, axis=1, keepdims=True)
    return tf.maximum(tf.reduce_min(kept, axis=1, keepdims=True), largest + options.distance)


def _draw(scaled: Any, kept: Any, noise: Any) -> Any:
    """For each row, return the index of the first id whose cumulative probability exceeds the noise, int32 [B, 1].

    Every row has such an id, because the noise is below STEPS, which represents the probability 1.
    """
    A = scaled.shape[1]
    ids = np.arange(A, dtype=np.int32)[np.newaxis, :]
    # The cumulative sum grows only at kept ids, so the first id whose sum exceeds the noise is a kept id.
    sums = tf.cumsum(_parts(tf.where(kept, scaled, -np.inf)), axis=1)
    above = sums * STEPS > tf.reduce_max(sums, axis=1, keepdims=True) * noise
    return tf.reduce_min(tf.where(above, ids, A - 1), axis=1, keepdims=True)


def _parts(logits: Any) -> Any:
    """Convert logits (float32 [B, A]) to probabilities as multiples of 1 / UNIT, rounded down (int64 [B, A])."""
    return tf.cast(tf.nn.softmax(logits) * UNIT, tf.int64)
