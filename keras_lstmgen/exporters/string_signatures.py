"""Create the signatures of the SavedModel that take and return strings; their graphs contain the tokenizer."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_text

from keras_lstmgen.exporters.graphs import Graphs, option_assertions
from keras_lstmgen.generation import decoding_loop, sampling
from keras_lstmgen.models import inference_step
from keras_lstmgen.models.run_directory import NONE, Run
from keras_lstmgen.tokenizers.tokenizer import WORD, Tokenizer

MAX_NEW_TOKENS = 200  # default number of tokens to generate
LIMIT_NEW_TOKENS = 65_536  # largest permitted number of tokens, because the noise of a text must fit into memory
SEPARATOR = b"\xff"  # a byte that does not occur in UTF-8
NO_ID = -1  # padding at the end of the shorter texts of a batch

# Type and default value of each optional input. A default value has the shape [1] and applies to all rows.
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
    """Token sequences of different lengths in one tensor; all sequences end in the last column."""

    ids: Any  # int32 [B, P]
    first: Any  # int32 [B, 1], column of the first id of each sequence


class Strings(tf.Module):
    """String signatures of a run, for any batch size B.

    Args:
        run: the run.
        graphs: the graphs of the run; the string signatures use the same variables.
    """

    def __init__(self, run: Run, graphs: Graphs) -> None:
        """Load the tokenizer without tracing a function."""
        super().__init__()
        self.graphs, self.metadata = graphs, run.metadata
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(run.tokenizer.model, out_type=tf.int32)
        self.pattern, self.unk_id = _pattern(run.tokenizer), run.tokenizer.unk_id
        self.special_ids = tf.constant(run.tokenizer.special_ids)

    def signatures(self) -> dict[str, Any]:
        """Return a dictionary that maps each signature name to a function.

        The functions are not traced yet, because tracing would remove the default values of their inputs.
        """
        texts = tf.TensorSpec([None], tf.string, "text")
        return {
            "serving_default": _with_defaults(self.complete),
            "complete": tf.function(
                self.complete_prompt, input_signature=[tf.TensorSpec([None], tf.string, "prompt")], autograph=False
            ),
            "score_text": tf.function(self.score_text, input_signature=[texts], autograph=False),
            "tokenize": tf.function(self.tokenize, input_signature=[texts], autograph=False),
            "detokenize": tf.function(
                self.detokenize, input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False
            ),
        }

    def complete_prompt(self, prompt: Any) -> dict[str, Any]:
        """Continue prompts, string [B], with default options.

        Servers and clients that do not support default values of inputs can use this signature.
        """
        return self.complete(prompt, *(tf.constant([value], kind) for kind, value in DEFAULTS.values()))

    def complete(self, prompt: Any, seed: Any, max_new_tokens: Any, *options: Any) -> dict[str, Any]:
        """Continue prompts.

        Args:
            prompt: string [B].
            seed: int64 [B] or [1], seeds of the random numbers.
            max_new_tokens: int32 [B] or [1], largest number of tokens to generate.
            *options: the sampling options in the order of ``DEFAULTS``, each with the shape [B] or [1].

        Returns:
            A dictionary with ``text``, string [B], without the prompt; ``token_count``, int32 [B]; ``finish_reason``,
            string [B], "stop" or "length"; and ``logprob``, float32 [B], the sum of the log-probabilities of the
            generated tokens in nats.
        """
        B = tf.shape(prompt)[0]
        limits = tf.broadcast_to(max_new_tokens, [B])
        rows = sampling.Rows(*(tf.broadcast_to(option, [B]) for option in options))
        with tf.control_dependencies([*option_assertions(rows), _limit_assertion(limits)]):
            noise = noise_of(tf.broadcast_to(seed, [B]), _largest(limits))
        metadata, limits, batch = self.metadata, tf.expand_dims(limits, 1), _align_right(self.prompt_ids(prompt))
        state = decoding_loop.initial_state(B, metadata.state_size, metadata.vocab_size)
        decoder = decoding_loop.Decoder(self.graphs.weights, self.graphs.unsampled, metadata.end_id)
        request = decoding_loop.Request(batch.ids, noise, rows, starts=batch.first, limits=limits)
        written = decoding_loop.decode(decoder, request, state)
        return self._completion(written, limits)

    def _completion(self, written: decoding_loop.DecodingResult, limits: Any) -> dict[str, Any]:
        """Return the outputs of ``complete``.

        Each text ends after its end token, or when its number of tokens reaches its entry of ``limits``, int32 [B, 1].
        """
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
        """Compute the log-probability of each text, with the start symbol prepended to the text.

        Args:
            text: string [B].

        Returns:
            A dictionary with ``logprob``, float32 [B], in nats; ``token_count``, int32 [B]; and ``perplexity``, float32
            [B], per token.
        """
        ids = self._after_start(self.encode(text), tf.ones_like(text, tf.int64))
        count = tf.cast(ids.row_lengths(), tf.int32) - 1
        zeros = tf.zeros([tf.shape(text)[0], self.metadata.state_size])
        logprobs, _ = inference_step.score(self.graphs.weights, ids.to_tensor(), zeros)
        logprob = tf.reduce_sum(tf.where(tf.sequence_mask(count, tf.shape(logprobs)[1]), logprobs, 0.0), axis=1)
        perplexity = tf.exp(-logprob / tf.cast(tf.maximum(count, 1), tf.float32))
        return {"logprob": logprob, "token_count": count, "perplexity": perplexity}

    def tokenize(self, text: Any) -> dict[str, Any]:
        """Encode texts.

        Args:
            text: string [B].

        Returns:
            A dictionary with ``ids``, int32 [B, P], padded with -1, and ``token_count``, int32 [B].
        """
        ids = self.encode(text)
        return {"ids": ids.to_tensor(NO_ID), "token_count": tf.cast(ids.row_lengths(), tf.int32)}

    def detokenize(self, ids: Any) -> dict[str, Any]:
        """Decode ids to texts.

        Args:
            ids: int32 [B, P]. The id -1 is padding and is ignored.

        Returns:
            A dictionary with ``text``, string [B].
        """
        V = self.metadata.vocab_size
        known = tf.debugging.Assert(
            tf.reduce_all((ids >= NO_ID) & (ids < V)),
            [f"ids: one is out of range; give -1 (padding) or 0 to {V - 1}"],
        )
        with tf.control_dependencies([known]):
            return {"text": self.tokenizer.detokenize(tf.ragged.boolean_mask(ids, ids != NO_ID))}

    def prompt_ids(self, prompt: Any) -> Any:
        """Encode prompts, string [B], to ragged ids by the rules of ``Run.prompt_ids``."""
        ids = self.encode(prompt)
        start = tf.ones_like(prompt, tf.int64) if self.metadata.prompt_start else ids.row_lengths() == 0
        return self._after_start(self._closed(ids), tf.cast(start, tf.int64))

    def _closed(self, ids: Any) -> Any:
        """Append the end symbol of a source to each row, if the model was trained on pairs.

        Empty rows and rows that already contain the symbol stay unchanged.
        """
        end = self.metadata.source_end_id
        if end == NONE:
            return ids
        lacking = tf.reduce_all(ids != end, axis=1) & (ids.row_lengths() > 0)
        ends = tf.fill([tf.math.count_nonzero(lacking)], end)
        return tf.concat([ids, tf.RaggedTensor.from_row_lengths(ends, tf.cast(lacking, tf.int64))], axis=1)

    def _after_start(self, ids: Any, starts: Any) -> Any:
        """Prepend the start symbol to some rows of ragged ids.

        The argument ``starts``, int64 [B], is 1 for each row that gets a start symbol, and 0 for the other rows.
        """
        symbols = tf.fill([tf.reduce_sum(starts)], self.metadata.start_id)
        return tf.concat([tf.RaggedTensor.from_row_lengths(symbols, starts), ids], axis=1)

    def encode(self, text: Any) -> Any:
        """Encode texts, string [B], to ragged ids, with the same result as ``Tokenizer.encode``.

        Bytes that are not valid UTF-8 become U+FFFD, as with ``bytes.decode("utf-8", "replace")`` in Python. The
        regular expressions have the syntax of RE2, because TensorFlow graphs use RE2.
        """
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        if not self.pattern:
            return self.tokenizer.tokenize(_split_after(text, "[^\n]*\n")).merge_dims(1, 2)
        words = _split_after(tf.strings.regex_replace(text, "▁", " "), self.pattern)
        ids = self.tokenizer.string_to_id(tf.strings.regex_replace(words.flat_values, " ", "▁"))
        is_symbol = tf.reduce_any(tf.expand_dims(ids, 1) == self.special_ids, axis=1)
        return words.with_flat_values(tf.where(is_symbol, self.unk_id, ids))  # "<s>" in a text is not a symbol


def _pattern(tokenizer: Tokenizer) -> str:
    """Return the regular expression of one piece; empty if SentencePiece itself splits the text."""
    if tokenizer.by_word:
        return WORD.pattern
    longer = sorted((piece for piece in tokenizer.pieces if len(piece) > 1), key=len, reverse=True)
    return "|".join([*map(re.escape, longer), "(?s:.)"]) if tokenizer.is_listed else ""


def _split_after(text: Any, pattern: str) -> Any:
    """Split texts, string [B], after each match of a pattern, and return ragged pieces.

    The text after the last match is the last piece. The function does not use ``tensorflow_text.regex_split``,
    because ``regex_split`` discards the text after a zero byte.
    """
    pieces = tf.strings.split(tf.strings.regex_replace(text, f"({pattern})", rb"\1" + SEPARATOR), SEPARATOR)
    return tf.ragged.boolean_mask(pieces, pieces != b"")


def _with_defaults(complete: Callable[..., Any]) -> Any:
    """Return the function of the signature ``serving_default``; all inputs except the prompt have default values."""
    specs = [tf.TensorSpec([None], kind, name) for name, (kind, _) in DEFAULTS.items()]
    seed, limit, penalty, temperature, k, p, m = (tf.constant([value], kind) for kind, value in DEFAULTS.values())

    def serving_default(  # noqa: PLR0913  # the names of the parameters are the names of the inputs
        prompt: Any, seed: Any = seed, max_new_tokens: Any = limit, repetition_penalty: Any = penalty,
        temperature: Any = temperature, top_k: Any = k, top_p: Any = p, min_p: Any = m,
    ) -> Any:  # fmt: skip
        return complete(prompt, seed, max_new_tokens, repetition_penalty, temperature, top_k, top_p, min_p)

    return tf.function(
        serving_default, input_signature=[tf.TensorSpec([None], tf.string, "prompt"), *specs], autograph=False
    )


def _limit_assertion(limits: Any) -> Any:
    """Create a graph assertion that fails if ``max_new_tokens`` is out of range."""
    holds = tf.reduce_all((limits >= 1) & (limits <= LIMIT_NEW_TOKENS))
    return tf.debugging.Assert(holds, [f"max_new_tokens is out of range; give a number from 1 to {LIMIT_NEW_TOKENS}"])


def _align_right(ids: Any) -> Batch:
    """Convert ragged ids to a batch in which all rows end in the last column."""
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    P = _largest(lengths)
    first = tf.expand_dims(P - lengths, 1)
    places = tf.maximum(tf.expand_dims(tf.range(P), 0) - first, 0)
    return Batch(tf.gather(ids.to_tensor(), places, batch_dims=1), first)


def _largest(numbers: Any) -> Any:
    """Return the maximum of positive numbers, int32 [B], or 1 if B is 0."""
    return tf.maximum(tf.reduce_max(numbers), 1)


def noise_of(seed: Any, N: Any) -> Any:
    """Compute the same random numbers as ``sampling.noise``, in a TensorFlow graph.

    TensorFlow has no arithmetic for uint32, so the function stores each uint32 number in the low half of an int64.

    Args:
        seed: int64 [B].
        N: int32 scalar, number of random numbers per seed.

    Returns:
        float32 [B, N], uniformly distributed in [0, 1).
    """
    key = _mix(_mix(_low(_low(seed) + 0x9E3779B9)) ^ _low(tf.bitwise.right_shift(seed, tf.constant(32, tf.int64))))
    positions = _low(tf.range(tf.cast(N, tf.int64), dtype=tf.int64) + 0x9E3779B9)
    bits = _mix(tf.expand_dims(key, 1) ^ tf.expand_dims(_mix(positions), 0))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.int64)), tf.float32) / 2.0**24


def _mix(x: Any) -> Any:
    """Apply the hash "lowbias32" (Wellons, 2018) to the low 32 bits of each int64.

    A product can exceed 64 bits, but the overflow does not change the low 32 bits.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = _low((x ^ tf.bitwise.right_shift(x, tf.constant(shift, tf.int64))) * factor)
    return x ^ tf.bitwise.right_shift(x, tf.constant(16, tf.int64))


def _low(x: Any) -> Any:
    """Return the low 32 bits of each int64."""
    return tf.bitwise.bitwise_and(x, tf.constant(0xFFFFFFFF, tf.int64))
