"""What every artifact is made of: three graphs and two files. ``docs/contract.md`` is the specification."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lstmgen import decode, model, sampling
from keras_lstmgen.errors import UserError
from keras_lstmgen.generation import unsampled_mask
from keras_lstmgen.run import Run

GRAPHS = ("step", "generate", "score")

# An opened artifact: (graph, inputs by name) → outputs by name.
Call = Callable[..., dict[str, np.ndarray[Any, Any]]]


class Graphs(tf.Module):
    """The three graphs over a run's weights, for any number of rows."""

    def __init__(self, run: Run, check_options: bool = False) -> None:
        """Trace nothing yet; with ``check_options`` the graph itself refuses options out of range."""
        super().__init__()
        self.weights = joined(model.in_parts(folded(run.weights)))
        self.end_id, self.unsampled = run.metadata.end_id, unsampled_mask(run)
        self.V, self.check_options = run.metadata.vocab_size, check_options
        ids, state = (
            tf.TensorSpec([None], tf.int32, "ids"),
            tf.TensorSpec([None, run.metadata.state_size], tf.float32, "state"),
        )
        window = tf.TensorSpec([None, None], tf.int32, "ids")
        noise = tf.TensorSpec([None, None], tf.float32, "noise")
        options = [
            tf.TensorSpec([None], tf.int32 if name == "top_k" else tf.float32, name) for name in sampling.Rows._fields
        ]
        self.step = tf.function(self._step, input_signature=[ids, state])
        self.generate = tf.function(self._generate, input_signature=[window, state, noise, *options])
        self.score = tf.function(self._score, input_signature=[window, state])

    def signatures(self) -> dict[str, Any]:
        """The graphs by name."""
        return {name: getattr(self, name) for name in GRAPHS}

    def _step(self, ids: Any, state: Any) -> dict[str, Any]:
        logits, state = model.step(self.weights, ids, state)
        return {"logits": logits, "next_state": state}

    def _generate(
        self, ids: Any, state: Any, noise: Any,
        repetition_penalty: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any,
    ) -> dict[str, Any]:  # fmt: skip
        options = sampling.Rows(repetition_penalty, temperature, top_k, top_p, min_p)
        with tf.control_dependencies(assertions(options) if self.check_options else []):
            text = decode.Text(state, tf.zeros([tf.shape(ids)[0], self.V], tf.bool))
        written = decode.write(self.weights, ids, text, noise, options, self.unsampled, self.end_id)
        return {"tokens": written.tokens, "logprobs": written.logprobs, "next_state": written.text.state}

    def _score(self, ids: Any, state: Any) -> dict[str, Any]:
        logprobs, state = model.score(self.weights, ids, state)
        return {"logprobs": logprobs, "next_state": state}


def assertions(options: sampling.Rows) -> list[Any]:
    """The ranges of the options, in the graph; each names its option."""
    return [
        tf.debugging.Assert(tf.reduce_all(holds), [f"{name} is out of range; give a number {wanted}"])
        for name, (holds, wanted) in sampling.ranges(*options).items()
    ]


def folded(weights: model.Weights) -> model.Weights:
    """Look up what the first layer makes of an id, ``embedding W + b``, where that is no more to carry.

    That is so of characters, which are few: a token then costs a product less.
    """
    first, *others = (_folded(member) for member in model.each_member(weights))
    return first._replace(others=tuple(others))


def _folded(weights: model.Weights) -> model.Weights:
    first, embedding = weights.cells[0], weights.embedding
    tables = [embedding, first.kernel, first.bias][weights.tied :]  # what is the output too is kept
    if embedding.shape[0] * first.kernel.shape[1] > sum(table.shape.num_elements() for table in tables):
        return weights
    table = tf.Variable(tf.matmul(embedding, first.kernel) + first.bias, trainable=False, name="embedding_table")
    cells = (model.Cell(None, first.recurrent, None), *weights.cells[1:])
    return weights._replace(embedding=table, cells=cells)


def joined(weights: model.Weights) -> model.Weights:
    """Let one product do what two did, ``[x, h]`` by W above U; matrices in parts stay, for their sums' sake.

    It is as much to multiply and two operators less, which counts where one text is written at a time.
    """
    first, *others = (member._replace(cells=tuple(map(_joined, member.cells))) for member in model.each_member(weights))
    return first._replace(others=tuple(others))


def _joined(cell: model.Cell) -> model.Cell:
    if cell.kernel is None or isinstance(cell.kernel, tuple):
        return cell
    both = tf.concat([cell.kernel, cell.recurrent], axis=0)
    return model.Cell(tf.Variable(both, trainable=False, name="kernels"), None, cell.bias)


def metadata_json(run: Run) -> str:
    """What ``keras_lstmgen.json`` says, as text."""
    return json.dumps(asdict(run.metadata), ensure_ascii=False, allow_nan=False)


def check_weights(run: Run) -> None:
    """Refuse to export a model that is not made of numbers."""
    for weight in tf.nest.flatten(run.weights):
        if isinstance(weight, tf.Variable) and not np.all(np.isfinite(weight.numpy())):
            raise UserError(
                f"weights {weight.name}: hold NaN or infinity; train again with a lower training.learning_rate"
            )
