"""Measure the fused LSTM and the integer arithmetic of TFLite for the graph ``score``.

    python -m benchmarks.fused
    python -m benchmarks.fused --units 256 --rounds 3

Every side reads the same text of 256 tokens by the same weights, which are random, in one thread. Seconds are those of
the processor (``time.process_time``), so that what else the machine does counts for little.
"""

import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from benchmarks import measure
from benchmarks.measure import Figures, Table, console, interleaved, publish, ratio
from keras_lstmgen.config import recipe
from keras_lstmgen.models import builder, inference_step

E, V, T = 64, 322, 256  # sizes of a model of characters; tokens of the text
EXAMPLES = 50  # texts that show the converter how large the numbers get
BUILTINS = "TFLITE_BUILTINS"
INTEGERS, WIDE = f"{BUILTINS}_INT8", f"EXPERIMENTAL_{BUILTINS}_ACTIVATIONS_INT16_WEIGHTS_INT8"
# What the converter is asked for: operators, and whether weights are quantized.
PRECISIONS = {
    "float32": (BUILTINS, False),
    "weights int8": (BUILTINS, True),
    "all int8": (INTEGERS, True),
    "weights int8, all else int16": (WIDE, True),
}
OURS, FUSED = "ours", "fused"
RIVAL = f"{OURS}, float32"

Graph = Callable[[Any], dict[str, Any]]  # int32 [1, T + 1] → logprobs float32 [1, T]
Read = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]  # the same, converted


class Side(NamedTuple):
    """A file that was converted, or why it could not be."""

    content: bytes
    error: str


def main(argv: Sequence[str] | None = None) -> int:
    """Convert all, measure, show."""
    parser = measure.parser("fused", __doc__)
    parser.add_argument("--units", type=int, default=512, metavar="H")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each side")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="X", help="length of a turn")
    arguments = parser.parse_args(argv)
    weights = made(arguments.units)
    sides = {f"{name}, {precision}": side(weights, name, precision) for name in GRAPHS for precision in PRECISIONS}
    about = {"units": arguments.units, "rounds": arguments.rounds, **measured(weights, sides, arguments)}
    publish("fused", about, [table(about)], arguments.results)
    return 0


def made(units: int) -> inference_step.Weights:
    """A model of one layer, its weights as arrays: variables crash the converter where it makes the fused operator."""
    tf.keras.utils.set_random_seed(0)
    settings = recipe.Model(units=units, embedding_size=E, layers=1, dropout=0.0)
    weights = inference_step.weights_of(builder.build(settings, V))
    return tf.nest.map_structure(lambda x: x.numpy() if isinstance(x, tf.Variable) else x, weights)


def ours(weights: inference_step.Weights, ids: Any) -> dict[str, Any]:
    """The graph ``score`` of the contract, a loop over the step; its state goes in and comes out."""
    logprobs, state = inference_step.score(weights, ids, tf.zeros((1, inference_step.state_size(weights))))
    return {"logprobs": logprobs, "next_state": state}


def fused(weights: inference_step.Weights, ids: Any) -> dict[str, Any]:
    """The same with the operator UNIDIRECTIONAL_SEQUENCE_LSTM; what its state becomes cannot be had."""
    (cell,), x = weights.cells, tf.gather(weights.embedding, ids[:, :-1])
    nothing = tf.zeros((1, cell.recurrent.shape[0]))
    h = lstm()(x, nothing, nothing, *map(tf.constant, cell))[1]
    logits = tf.matmul(h, weights.output) + weights.output_bias
    targets = tf.expand_dims(ids[:, 1:], 2)
    return {"logprobs": tf.squeeze(tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=2), 2)}


GRAPHS: dict[str, Callable[[inference_step.Weights, Any], dict[str, Any]]] = {OURS: ours, FUSED: fused}


def lstm() -> Any:
    """An LSTM that TFLite's converter knows by these attributes, its arguments and its five results.

    It makes the operator where none but the first two results are used: the last output, and all of them.
    """
    known = {"api_implements": f"lstm_{uuid.uuid4()}", "api_preferred_device": "CPU"}

    @tf.function(experimental_attributes={**known, "time_major": False, "go_backwards": False})
    def run(x: Any, h: Any, c: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, ...]:
        cell = inference_step.Cell(kernel, recurrent, bias)
        h, c = tf.scan(lambda state, x: inference_step.cell(cell, x, *state)[:2], tf.transpose(x, [1, 0, 2]), (h, c))
        return h[-1], tf.transpose(h, [1, 0, 2]), h[-1], c[-1], tf.constant(0.0)

    return run


def side(weights: inference_step.Weights, name: str, precision: str) -> Side:
    """One graph in one precision."""
    console.print(f"{name}, {precision}")
    try:
        return Side(converted(lambda ids: GRAPHS[name](weights, ids), *PRECISIONS[precision]), "")
    except RuntimeError as error:  # as the converter says no
        return Side(b"", str(error).splitlines()[0])


def converted(graph: Graph, operators: str, quantized: bool) -> bytes:
    """The graph as a file."""
    traced = tf.function(graph, input_signature=[tf.TensorSpec([1, T + 1], tf.int32, "ids")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, operators)]
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantized else []
    if operators != BUILTINS:
        converter.representative_dataset = examples
    return bytes(converter.convert())


def examples() -> Iterator[list[np.ndarray[Any, Any]]]:
    """Texts of random ids."""
    dice = np.random.default_rng(1)
    for _ in range(EXAMPLES):
        yield [dice.integers(V, size=(1, T + 1), dtype=np.int32)]


def opened(content: bytes) -> Read:
    """A file in LiteRT, one thread; every text begins anew."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()

    def read(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        interpreter.reset_all_variables()  # the fused operator's state, which is in them, would go on
        return np.copy(run(ids=ids)["logprobs"])

    return read


def measured(weights: inference_step.Weights, sides: Mapping[str, Side], arguments: Any) -> dict[str, Any]:
    """Rates of what was converted, in turns, and how far its numbers are from TensorFlow's."""
    [ids] = next(examples())
    expected = ours(weights, ids)["logprobs"].numpy()
    reads = {name: opened(side.content) for name, side in sides.items() if side.content}
    difference = {name: float(np.abs(read(ids) - expected).max()) for name, read in reads.items()}
    turns = {name: _turn(read, ids, arguments.seconds) for name, read in reads.items()}
    return {
        "tokens_per_second": interleaved(turns, arguments.rounds),
        "difference": difference,
        "bytes": {name: len(side.content) for name, side in sides.items() if side.content},
        "failed": {name: side.error for name, side in sides.items() if side.error},
    }


def _turn(read: Read, ids: np.ndarray[Any, Any], seconds: float) -> Callable[[], float]:
    def rate() -> float:
        texts, began = 0, time.process_time()
        while time.process_time() < began + seconds or not texts:
            read(ids)
            texts += 1
        return texts * T / (time.process_time() - began)

    return rate


def table(about: Mapping[str, Any]) -> Table:
    """A row a side; what could not be converted last."""
    figures: Figures = about["tokens_per_second"]
    title = f"score, a text of {T} tokens, 1 x {about['units']} units, E = {E}, V = {V}, one thread"
    columns = ("side", "MB", "tokens/s", f"× {RIVAL}", "largest difference, nats")
    cells = [
        [
            name,
            f"{about['bytes'][name] / 1e6:.2f}",
            f"{statistics.median(rates):,.0f}",
            f"{ratio(figures, name, RIVAL):.2f}",
            f"{about['difference'][name]:.1e}",
        ]
        for name, rates in figures.items()
    ]
    failed = [[f"{name}: {error}", *[""] * (len(columns) - 1)] for name, error in about["failed"].items()]
    return Table(title, columns, cells + failed)


if __name__ == "__main__":
    sys.exit(main())
