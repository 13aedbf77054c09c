"""The graphs once more, in strings: text in, text out, the tokenizer in the graph by tensorflow-text."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_text

from keras_lstmgen.exporters.graphs import Graphs, assertions
from keras_lstmgen.generation import decoding_loop, sampling
from keras_lstmgen.models import inference_step
from keras_lstmgen.models.run_directory import NONE, Run
from keras_lstmgen.tokenizers.tokenizer import NEWLINE, UNK, WORD

MAX_NEW_TOKENS = 200  # where a request does not say how many
MOST_NEW_TOKENS = 65_536  # a request may ask for: the noise of a text has to fit in memory
CUT = b"\xff"  # a byte that UTF-8 never has
NO_ID = -1  # in place of an id, where the texts of a batch differ in length

# An input that a request may leave out has its default in the signature: of shape [1], for all rows.
DEFAULTS: dict[str, tuple[Any, Any]] = {
    "seed": (tf.int64, 0),
    "max_new_tokens": (tf.int32, MAX_NEW_TOKENS),
    "repetition_penalty": (tf.float32, 1.0),
    "temperature": (tf.float32, 1.0),
    "top_k": (tf.int32, 0),
    "top_p": (tf.float32, 1.0),
    "min_p": (tf.float32, 0.0),
}


class Batch(NamedTuple):
    """Texts of different lengths in one tensor, each at its right end."""

    ids: Any  # int32 [B, P]
    first: Any  # int32 [B, 1], the column of its first id


class Strings(tf.Module):
    """The signatures in strings over the same weights, for B rows; where one has its own length, it is padded."""

    def __init__(self, run: Run, graphs: Graphs) -> None:
        """Trace nothing yet."""
        super().__init__()
        self.graphs, self.metadata = graphs, run.metadata
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(run.tokenizer.model, out_type=tf.int32)
        self.by_word = run.tokenizer.by_word

    def signatures(self) -> dict[str, Any]:
        """The functions by name. A function that is not traced yet keeps the defaults of its inputs."""
        texts = tf.TensorSpec([None], tf.string, "text")
        return {
            "serving_default": _with_defaults(self.complete),
            "complete": tf.function(self.complete_prompt, input_signature=[tf.TensorSpec([None], tf.string, "prompt")]),
            "score_text": tf.function(self.score_text, input_signature=[texts]),
            "tokenize": tf.function(self.tokenize, input_signature=[texts]),
            "detokenize": tf.function(self.detokenize, input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")]),
        }

    def complete_prompt(self, prompt: Any) -> dict[str, Any]:
        """Go on from string [B], all else by default: for servers and clients that know no defaults."""
        return self.complete(prompt, *(tf.constant([value], kind) for kind, value in DEFAULTS.values()))

    def complete(self, prompt: Any, seed: Any, max_new_tokens: Any, *options: Any) -> dict[str, Any]:
        """Go on from string [B]; all others are [B] or [1], in the order of ``DEFAULTS``."""
        B = tf.shape(prompt)[0]
        limits = tf.broadcast_to(max_new_tokens, [B])
        rows = sampling.Rows(*(tf.broadcast_to(option, [B]) for option in options))
        with tf.control_dependencies([*assertions(rows), _limited(limits)]):
            noise = noise_of(tf.broadcast_to(seed, [B]), _largest(limits))
        weights, metadata, limits = self.graphs.weights, self.metadata, tf.expand_dims(limits, 1)
        batch, text = _right(self.prompt_ids(prompt)), decoding_loop.begin(B, metadata.state_size, metadata.vocab_size)
        written = decoding_loop.write(
            weights, batch.ids, text, noise, rows, self.graphs.unsampled, metadata.end_id,
            first=batch.first, limits=limits,
        )  # fmt: skip
        return self._told(written, limits)

    def _told(self, written: decoding_loop.Written, limits: Any) -> dict[str, Any]:
        """What was written up to the end token or the limit."""
        ends = written.tokens == self.metadata.end_id
        before = tf.cumsum(tf.cast(ends, tf.int32), axis=1, exclusive=True) == 0
        counted = before & (tf.expand_dims(tf.range(tf.shape(ends)[1]), 0) < limits)
        stopped = tf.reduce_any(ends & counted, axis=1)
        return {
            "text": self.tokenizer.detokenize(tf.ragged.boolean_mask(written.tokens, counted)),
            "token_count": tf.reduce_sum(tf.cast(counted, tf.int32), axis=1),
            "finish_reason": tf.where(stopped, "stop", "length"),
            "logprob": tf.reduce_sum(tf.where(counted, written.logprobs, 0.0), axis=1),
        }

    def score_text(self, text: Any) -> dict[str, Any]:
        """How likely the model finds string [B], each behind the start symbol; perplexity is per token."""
        ids = self._behind_start(self.encode(text), tf.ones_like(text, tf.int64))
        count = tf.cast(ids.row_lengths(), tf.int32) - 1
        zeros = tf.zeros([tf.shape(text)[0], self.metadata.state_size])
        logprobs, _ = inference_step.score(self.graphs.weights, ids.to_tensor(), zeros)
        logprob = tf.reduce_sum(tf.where(tf.sequence_mask(count, tf.shape(logprobs)[1]), logprobs, 0.0), axis=1)
        perplexity = tf.exp(-logprob / tf.cast(tf.maximum(count, 1), tf.float32))
        return {"logprob": logprob, "token_count": count, "perplexity": perplexity}

    def tokenize(self, text: Any) -> dict[str, Any]:
        """Ids int32 [B, P] of string [B], -1 behind the shorter ones, and how many they are."""
        ids = self.encode(text)
        return {"ids": ids.to_tensor(NO_ID), "token_count": tf.cast(ids.row_lengths(), tf.int32)}

    def detokenize(self, ids: Any) -> dict[str, Any]:
        """The text of int32 [B, P]; -1 stands for nothing."""
        V = self.metadata.vocab_size
        known = tf.debugging.Assert(
            tf.reduce_all((ids >= NO_ID) & (ids < V)), [f"ids: one is out of range; give -1 (none) to {V - 1}"]
        )
        with tf.control_dependencies([known]):
            return {"text": self.tokenizer.detokenize(tf.ragged.boolean_mask(ids, ids != NO_ID))}

    def prompt_ids(self, prompt: Any) -> Any:
        """The ids that are fed for string [B], ragged: as ``Run.prompt_ids`` has them."""
        ids = self.encode(prompt)
        start = tf.ones_like(prompt, tf.int64) if self.metadata.prompt_start else ids.row_lengths() == 0
        return self._behind_start(self._closed(ids), tf.cast(start, tf.int64))

    def _closed(self, ids: Any) -> Any:
        """Ragged ids, a source's end behind each row that is not empty and lacks it, where the model answers one."""
        end = self.metadata.source_end_id
        if end == NONE:
            return ids
        lacking = tf.reduce_all(ids != end, axis=1) & (ids.row_lengths() > 0)
        ends = tf.fill([tf.math.count_nonzero(lacking)], end)
        return tf.concat([ids, tf.RaggedTensor.from_row_lengths(ends, tf.cast(lacking, tf.int64))], axis=1)

    def _behind_start(self, ids: Any, starts: Any) -> Any:
        """Ragged ids, each row behind so many start symbols: int64 [B], 0 or 1."""
        symbols = tf.fill([tf.reduce_sum(starts)], self.metadata.start_id)
        return tf.concat([tf.RaggedTensor.from_row_lengths(symbols, starts), ids], axis=1)

    def encode(self, text: Any) -> Any:
        """Encode string [B] to ragged ids: the cuts of ``Tokenizer.encode``, by RE2, and SentencePiece's pieces.

        Bytes that are not UTF-8 are read as U+FFFD, as Python's ``bytes.decode("utf-8", "replace")`` does.
        """
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        if not self.by_word:
            return self.tokenizer.tokenize(_cut(text, "[^\n]*\n")).merge_dims(1, 2)
        words = _cut(tf.strings.regex_replace(text, "▁", " "), WORD.pattern)
        ids = self.tokenizer.string_to_id(tf.strings.regex_replace(words.flat_values, " ", "▁"))
        return words.with_flat_values(tf.where(ids < NEWLINE, UNK, ids))  # no text spells <s>


def _cut(text: Any, pattern: str) -> Any:
    """Cut string [B] behind each match, ragged; what is left at the end is the last piece.

    ``tensorflow_text.regex_split`` would lose what follows a zero byte.
    """
    pieces = tf.strings.split(tf.strings.regex_replace(text, f"({pattern})", rb"\1" + CUT), CUT)
    return tf.ragged.boolean_mask(pieces, pieces != b"")


def _with_defaults(complete: Callable[..., Any]) -> Any:
    """The signature whose inputs, but for the prompt, may be left out."""
    specs = [tf.TensorSpec([None], kind, name) for name, (kind, _) in DEFAULTS.items()]
    seed, limit, penalty, temperature, k, p, m = (tf.constant([value], kind) for kind, value in DEFAULTS.values())

    def serving_default(  # the names are those of the inputs
        prompt: Any, seed: Any = seed, max_new_tokens: Any = limit, repetition_penalty: Any = penalty,
        temperature: Any = temperature, top_k: Any = k, top_p: Any = p, min_p: Any = m,
    ) -> Any:  # fmt: skip
        return complete(prompt, seed, max_new_tokens, repetition_penalty, temperature, top_k, top_p, min_p)

    return tf.function(serving_default, input_signature=[tf.TensorSpec([None], tf.string, "prompt"), *specs])


def _limited(limits: Any) -> Any:
    """The range of ``max_new_tokens``, in the graph."""
    holds = tf.reduce_all((limits >= 1) & (limits <= MOST_NEW_TOKENS))
    return tf.debugging.Assert(holds, [f"max_new_tokens is out of range; give a number from 1 to {MOST_NEW_TOKENS}"])


def _right(ids: Any) -> Batch:
    """Move ragged ids to the right end of int32 [B, P]."""
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    P = _largest(lengths)
    first = tf.expand_dims(P - lengths, 1)
    places = tf.maximum(tf.expand_dims(tf.range(P), 0) - first, 0)
    return Batch(tf.gather(ids.to_tensor(), places, batch_dims=1), first)


def _largest(numbers: Any) -> Any:
    """The largest of int32 [B], all of which are 1 or more; 1 if there are none."""
    return tf.maximum(tf.reduce_max(numbers), 1)


def noise_of(seed: Any, N: Any) -> Any:
    """``sampling.noise`` in the graph: int64 [B] gives float32 [B, N]. Unsigned 32 bits are the low half of 64."""
    key = _mix(_mix(_low(_low(seed) + 0x9E3779B9)) ^ _low(tf.bitwise.right_shift(seed, tf.constant(32, tf.int64))))
    positions = _low(tf.range(tf.cast(N, tf.int64), dtype=tf.int64) + 0x9E3779B9)
    bits = _mix(tf.expand_dims(key, 1) ^ tf.expand_dims(_mix(positions), 0))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.int64)), tf.float32) / 2.0**24


def _mix(x: Any) -> Any:
    """The hash "lowbias32"; a product that leaves 64 bits is still right in the low 32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = _low((x ^ tf.bitwise.right_shift(x, tf.constant(shift, tf.int64))) * factor)
    return x ^ tf.bitwise.right_shift(x, tf.constant(16, tf.int64))


def _low(x: Any) -> Any:
    return tf.bitwise.bitwise_and(x, tf.constant(0xFFFFFFFF, tf.int64))
