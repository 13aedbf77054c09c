"""Generate text with an exported model in NumPy, one text at a time, as specified in docs/contract.md.

The module generates the random numbers of a seed, samples a token from logits, and runs the generation loop. A client
adds a runtime, which computes the function ``step`` of the artifact, and a tokenizer. V is the vocabulary size, and S
is the state size. Numbers are float32, and probabilities are added as integers. Therefore a seed selects the same
tokens in every runtime.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ids = Sequence[int] | npt.NDArray[np.intp]
Step = Callable[[int, Floats], tuple[Floats, Floats]]  # takes an id and a state [S]; returns logits [V] and a state [S]

FORMAT_VERSION = 1
LOWEST = np.float32(-np.inf)
UNIT = np.float32(2**36)  # the integer that represents the probability 1
CHUNK = 1024  # number of random numbers that are generated at once
STEPS = 2**24  # noise and top_p are multiples of 1 / STEPS


@dataclass(frozen=True)
class Metadata:
    """Metadata of an artifact.

    Attributes:
        vocab_size: V, number of ids.
        state_size: S, number of float32 values in the state of a text.
        start_id: id of the start symbol.
        end_id: id of the end symbol, after which generation stops.
        unsampled_ids: ids that are never generated.
        prompt_start: whether the model reads the start symbol before a prompt.
        source_end_id: id of the symbol that ends the source of a pair; -1 for a model that is not trained on pairs.
    """

    vocab_size: int
    state_size: int
    start_id: int
    end_id: int
    unsampled_ids: tuple[int, ...]
    prompt_start: bool = False
    source_end_id: int = -1


def read_metadata(text: str | bytes) -> Metadata:
    """Read the metadata of an artifact from JSON; raise ValueError if it is damaged or of an unknown format."""
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"its metadata is not of format_version {FORMAT_VERSION}")
    for name in ("vocab_size", "state_size", "start_id", "end_id", "unsampled_ids"):
        if name not in values:
            raise ValueError(f"its metadata lacks {name}")
    known = {field.name: values[field.name] for field in fields(Metadata) if field.name in values}
    metadata = Metadata(**known | {"unsampled_ids": tuple(known["unsampled_ids"])})
    V, end = metadata.vocab_size, metadata.source_end_id
    numbers = (V, metadata.state_size, metadata.start_id, metadata.end_id, end, *metadata.unsampled_ids)
    ids = (metadata.start_id, metadata.end_id, end if end != -1 else 0, *metadata.unsampled_ids)
    if not all(type(number) is int for number in numbers) or not all(0 <= i < V < 2**31 for i in ids):
        raise ValueError("its metadata contains an invalid id, or an id outside the vocabulary")
    if len(set(metadata.unsampled_ids)) == V:
        raise ValueError("its metadata excludes all ids from generation")
    if not 0 <= metadata.state_size < 2**31 or type(metadata.prompt_start) is not bool:
        raise ValueError("its metadata contains an invalid state_size or prompt_start")
    return metadata


@dataclass(frozen=True)
class Options:
    """Sampling options; each default turns its option off.

    Raises:
        ValueError: if an option is out of range; the message names the option.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError if an option is out of range or NaN."""
        penalty, heat = self.repetition_penalty, self.temperature
        _require("repetition_penalty", 1e-6 <= penalty <= 1e6, "0.000001 to 1000000 (1: off)")
        _require("temperature", heat == 0 or 1e-6 <= heat <= 1e6, "0 (greedy), or 0.000001 to 1000000")
        _require("top_k", 0 <= self.top_k < 2**31, "0 (off) to 2147483647")
        _require("top_p", 0 < self.top_p <= 1, "above 0, up to 1 (off)")
        _require("min_p", 0 <= self.min_p <= 1, "0 (off) to 1")


def _require(option: str, holds: bool, wanted: str) -> None:
    """Raise ValueError with the name of an option if the condition ``holds`` is false."""
    if not holds:
        raise ValueError(f"{option} is out of range: it must be {wanted}")


def noise(seed: int, n: int, start: int = 0) -> Floats:
    """Return random numbers of a seed, uniformly distributed in [0, 1); generation uses one per token.

    >>> [round(float(number), 4) for number in noise(0, 2)]
    [0.2202, 0.6937]

    Args:
        seed: 64-bit seed. A negative seed gives the same numbers as its two's complement.
        n: number of random numbers.
        start: position of the first returned number in the sequence of the seed.

    Returns:
        float32 [n].
    """
    low, high = (np.array([half], np.uint32) for half in (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    key = _mix(_mix(low + np.uint32(0x9E3779B9)) ^ high)
    t = np.arange(start, start + n, dtype=np.uint64).astype(np.uint32)
    bits = _mix(key ^ _mix(t + np.uint32(0x9E3779B9))) >> np.uint32(8)
    return bits.astype(np.float32) / np.float32(2**24)


def _mix(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Apply the hash "lowbias32" (Wellons, 2018) to each number; products of uint32 numbers are modulo 2^32."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def choose(logits: Floats, noise: float, seen: Bools, options: Options, unsampled_ids: Ids = ()) -> int:
    """Sample the next token; docs/contract.md specifies the order of the operations.

    Args:
        logits: float32 [V], output of ``step``.
        noise: random number in [0, 1).
        seen: bool [V], true for each id in the prompt or in the text so far.
        options: sampling options.
        unsampled_ids: ids that are never generated.

    Returns:
        The id of the token.
    """
    sampled = np.ones(len(logits), np.bool_)
    sampled[np.asarray(unsampled_ids, np.intp)] = False
    logits = np.where(sampled, logits, LOWEST)

    penalty = np.float32(options.repetition_penalty)
    logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)

    if options.temperature == 0:
        return int(np.argmax(logits))  # the lowest id if several logits are equal
    scaled = logits / np.float32(options.temperature)

    kept = sampled & (scaled >= _threshold(scaled, options))
    sums = np.cumsum(_parts(np.where(kept, scaled, LOWEST)))
    return int(np.argmax(sums > min(int(noise * STEPS), STEPS - 1) * int(sums[-1]) // STEPS))


def _threshold(scaled: Floats, options: Options) -> np.float32:
    """Return the lowest scaled logit that ``top_k``, ``top_p`` and ``min_p`` allow; ``scaled`` has the shape [V]."""
    falling = np.sort(scaled)[::-1]
    thresholds = [LOWEST]
    if 0 < options.top_k <= len(falling):
        thresholds.append(falling[options.top_k - 1])
    if np.float32(options.top_p) < 1:
        sums, part = np.cumsum(_parts(falling)), math.ceil(np.float32(options.top_p) * STEPS)
        thresholds.append(falling[np.argmax(sums * STEPS >= part * sums[-1])])
    if options.min_p > 0:
        thresholds.append(falling[0] + np.log(np.float32(options.min_p)))
    return max(thresholds)


def _parts(logits: Floats) -> npt.NDArray[np.int64]:
    """Return the probabilities [V] as integers, because sums of integers do not depend on the order."""
    powers = np.exp(logits - logits.max())
    return (powers / powers.sum() * UNIT).astype(np.int64)


def prompt_ids(encoded: Sequence[int], metadata: Metadata) -> list[int]:
    """Return the ids that the model must read for an encoded prompt.

    The function prepends the start symbol if the prompt is empty or ``prompt_start`` is true. If the model was trained
    on pairs, it appends the symbol that ends a source, unless the prompt contains it.

    >>> metadata = Metadata(vocab_size=9, state_size=4, start_id=1, end_id=2, unsampled_ids=())
    >>> prompt_ids([5, 6], metadata), prompt_ids([], metadata)
    ([5, 6], [1])
    """
    end = metadata.source_end_id
    closed = list(encoded) if end < 0 or end in encoded or not encoded else [*encoded, end]
    return [metadata.start_id, *closed] if metadata.prompt_start or not encoded else closed


def generate(
    step: Step, ids: Sequence[int], metadata: Metadata, options: Options, *, seed: int, max_new_tokens: int
) -> Iterator[int]:
    """Generate a text token by token, until the end token or ``max_new_tokens`` is reached.

    Args:
        step: function that runs the model for one token.
        ids: ids of the prompt, at least one. If the last id is the end token, nothing is generated.
        metadata: metadata of the artifact.
        options: sampling options.
        seed: 64-bit seed.
        max_new_tokens: largest number of tokens to generate.

    Yields:
        The id of each token as soon as it is sampled, including the end token.
    """
    state = np.zeros(metadata.state_size, np.float32)
    seen = np.zeros(metadata.vocab_size, np.bool_)
    unsampled = np.array(metadata.unsampled_ids, np.intp)
    waiting = list(ids)
    for number in _numbers(seed, max_new_tokens):
        if waiting[-1] == metadata.end_id:
            return
        for token in waiting:
            logits, state = step(token, state)
        seen[waiting] = True
        waiting = [choose(logits, number, seen, options, unsampled)]
        yield waiting[0]


def _numbers(seed: int, n: int) -> Iterator[Any]:
    """Iterate over ``n`` random numbers of a seed; they are generated in chunks, so large ``n`` need little memory."""
    for start in range(0, n, CHUNK):
        yield from noise(seed, min(CHUNK, n - start), start)


def finish_reason(tokens: Sequence[int], metadata: Metadata) -> str:
    """Return "stop" if the text ends with the end token, or "length" if it reached the largest number of tokens."""
    return "length" if tokens and tokens[-1] != metadata.end_id else "stop"
