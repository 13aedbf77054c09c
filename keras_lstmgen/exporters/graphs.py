"""Create the graphs and the metadata of the exported artifacts; see ``docs/contract.md``."""

import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen.generation import decoding_loop, sampling
from keras_lstmgen.generation.text_generation import unsampled_mask
from keras_lstmgen.models import inference_step
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

GRAPHS = ("step", "generate", "score")


class Graphs(tf.Module):
    """The graphs ``step``, ``generate`` and ``score`` of a run, for any batch size B.

    All graphs take ``state``, float32 [B, S], and return ``next_state``, float32 [B, S]. P is the number of ids of a
    prompt, N the number of tokens to generate.

    - ``step`` computes logits for one id per text. It takes ``ids``, int32 [B], and returns ``logits``, float32 [B, V].
    - ``generate`` continues prompts. It takes ``ids``, int32 [B, P], ``noise``, float32 [B, N], and
      the sampling options, each with shape [B]. It returns ``tokens``, int32 [B, N], and ``logprobs``, float32 [B, N].
    - ``score`` computes log-probabilities of texts. It takes ``ids``, int32 [B, P], and returns ``logprobs``, float32
      [B, P - 1].

    Args:
        run: the run.
        check_inputs: whether the graph ``generate`` checks that the sampling options are in their ranges and P >= 1.
    """

    def __init__(self, run: Run, check_inputs: bool = False) -> None:
        """Create the functions without tracing them."""
        super().__init__()
        self.weights = joined(inference_step.in_parts(folded(run.weights)))
        self.end_id, self.unsampled = run.metadata.end_id, unsampled_mask(run)
        self.V, self.check_inputs = run.metadata.vocab_size, check_inputs
        ids, state = (
            tf.TensorSpec([None], tf.int32, "ids"),
            tf.TensorSpec([None, run.metadata.state_size], tf.float32, "state"),
        )
        window = tf.TensorSpec([None, None], tf.int32, "ids")
        noise = tf.TensorSpec([None, None], tf.float32, "noise")
        options = [
            tf.TensorSpec([None], tf.int32 if name == "top_k" else tf.float32, name) for name in sampling.Rows._fields
        ]
        self.step = tf.function(self._step, input_signature=[ids, state], autograph=False)
        self.generate = tf.function(self._generate, input_signature=[window, state, noise, *options], autograph=False)
        self.score = tf.function(self._score, input_signature=[window, state], autograph=False)

    def signatures(self) -> dict[str, Any]:
        """Return the graphs by name."""
        return {name: getattr(self, name) for name in GRAPHS}

    def _step(self, ids: Any, state: Any) -> dict[str, Any]:
        logits, state = inference_step.step(self.weights, ids, state)
        return {"logits": logits, "next_state": state}

    def _generate(self, ids: Any, state: Any, noise: Any, *sampling_options: Any) -> dict[str, Any]:
        options = sampling.Rows(*sampling_options)
        with tf.control_dependencies(
            [*option_assertions(options), _length_assertion(ids)] if self.check_inputs else []
        ):
            text = decoding_loop.DecodingState(state, tf.zeros([tf.shape(ids)[0], self.V], tf.bool))
            ids = tf.identity(ids) if self.check_inputs else ids
        decoder = decoding_loop.Decoder(self.weights, self.unsampled, self.end_id)
        written = decoding_loop.decode(decoder, decoding_loop.Request(ids, noise, options), text)
        return {"tokens": written.tokens, "logprobs": written.logprobs, "next_state": written.state.recurrent}

    def _score(self, ids: Any, state: Any) -> dict[str, Any]:
        logprobs, state = inference_step.score(self.weights, ids, state)
        return {"logprobs": logprobs, "next_state": state}


def option_assertions(options: sampling.Rows) -> list[Any]:
    """Create one graph assertion per sampling option.

    Each assertion fails if a value of its option is out of range. The message of the assertion names the option.
    """
    return [
        tf.debugging.Assert(tf.reduce_all(holds), [f"{name} is out of range; give a number {wanted}"])
        for name, (holds, wanted) in sampling.ranges(*options).items()
    ]


def _length_assertion(ids: Any) -> Any:
    """Create a graph assertion that fails if the prompts have no ids."""
    return tf.debugging.Assert(tf.shape(ids)[1] >= 1, ["ids: its rows are empty; give at least one id in each"])


def folded(weights: inference_step.Weights) -> inference_step.Weights:
    """Replace the embedding, W and b by one table ``embedding W + b``.

    W and b are the kernel and the bias of the first LSTM layer.

    The table saves one matrix product per token. The weights stay unchanged if the table has more numbers than the
    weights that it replaces. With a small vocabulary, such as characters, the table has fewer numbers.
    """
    first, *others = (_folded(member) for member in inference_step.each_member(weights))
    return first._replace(others=tuple(others))


def _folded(weights: inference_step.Weights) -> inference_step.Weights:
    """Replace the weights of one member by the table, as described for ``folded``."""
    first, embedding = weights.cells[0], weights.embedding
    tables = [embedding, first.kernel, first.bias][weights.tied :]  # the output still needs a tied embedding
    if embedding.shape[0] * first.kernel.shape[1] > sum(table.shape.num_elements() for table in tables):
        return weights
    table = tf.Variable(tf.matmul(embedding, first.kernel) + first.bias, trainable=False, name="embedding_table")
    cells = (inference_step.Cell(None, first.recurrent, None), *weights.cells[1:])
    return weights._replace(embedding=table, cells=cells)


def joined(weights: inference_step.Weights) -> inference_step.Weights:
    """Merge the products ``x W`` and ``h U`` of each LSTM cell into one product of ``[x, h]`` and ``[W; U]``.

    The number of multiplications stays the same, but the graph has two operators fewer. This makes a step with batch
    size 1 faster. Matrices that ``in_parts`` has split are not merged, because longer sums have larger rounding errors.
    """
    first, *others = (
        member._replace(cells=tuple(map(_joined, member.cells))) for member in inference_step.each_member(weights)
    )
    return first._replace(others=tuple(others))


def _joined(cell: inference_step.Cell) -> inference_step.Cell:
    """Merge the two products of one cell, as described for ``joined``."""
    if cell.kernel is None or isinstance(cell.kernel, tuple):
        return cell
    both = tf.concat([cell.kernel, cell.recurrent], axis=0)
    return inference_step.Cell(tf.Variable(both, trainable=False, name="kernels"), None, cell.bias)


def metadata_json(run: Run) -> str:
    """Return the metadata of a run as JSON, for an exported artifact.

    The recipe in the metadata contains the names of the corpus files, and of the run from which the training started,
    without their folders, because artifacts may be published.
    """
    values = run.metadata.to_json()
    corpus = values["recipe"].get("corpus", {})
    for key in ("source", "validation"):
        if key in corpus:
            corpus[key] = [_without_folder(name) for name in corpus[key]]
    if init_from := values["recipe"].get("training", {}).get("init_from"):
        values["recipe"]["training"]["init_from"] = _without_folder(init_from)
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _without_folder(name: str) -> str:
    """Return the last component of an absolute local path; return any other source, such as a URL, unchanged."""
    return PurePosixPath(name).name if name.startswith(("/", "file:///")) else name


def check_weights(run: Run) -> None:
    """Raise UserError if a weight contains NaN or infinity."""
    for weight in tf.nest.flatten(run.weights):
        if isinstance(weight, tf.Variable) and not np.all(np.isfinite(weight.numpy())):
            raise UserError(
                f"weights {weight.name}: contain NaN or infinity; train again with a lower training.learning_rate"
            )
