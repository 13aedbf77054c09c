"""Measure training with the LSTM layer in a user's own Keras model, in new processes.

    python -m benchmarks.layer
    python -m benchmarks.layer --rounds 20 --shape 2x512,64,128

Each round starts new processes, one after the other. They train the layer in a Keras model without any setting of this
package, the same program with ``system/malloc.py``, the model that ``keras-lstmgen train`` builds, and PyTorch if it is
installed. The table shows the slowest process of each side next to the median.
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table, console, interleaved, publish
from benchmarks.shapes import CLIP_NORM, LEARNING_RATE, Shape, parse, windows
from benchmarks.workers import Worker

STEPS = 30  # updates of one process, after two that trace the graph; at most WINDOWS of shapes.py
OWN, CONFIGURED = "own model", "own model, malloc.configure()"
TRAIN, TORCH = "keras-lstmgen train", "PyTorch"
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    OWN: ("benchmarks.layer:own_model", {"configured": False}),
    CONFIGURED: ("benchmarks.layer:own_model", {"configured": True}),
    TRAIN: ("benchmarks.keras_sides:ours", {"precision": "float32"}),
    TORCH: ("benchmarks.torch_side:train", {"precision": "float32"}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all sides."""
    parser = measure.parser("layer", __doc__)
    parser.add_argument("--shape", type=parse, default=Shape(2, 512, 64, 128), metavar="LxH,B,T[,V]")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args(argv)
    names = [name for name in JOBS if name != TORCH or find_spec("torch")]
    sides = {name: in_new_process(name, arguments.shape) for name in names}
    figures = interleaved(sides, arguments.rounds)
    results = {"shape": str(arguments.shape), "steps": STEPS, "tokens_per_second": figures}
    publish("layer", results, [table(arguments.shape, figures)], arguments.results)
    return 0


def in_new_process(name: str, shape: Shape) -> Callable[[], float]:
    """Return a function that starts a process, trains STEPS updates in it, and returns tokens per second."""
    target, options = JOBS[name]

    def side() -> float:
        with closing(Worker(target, shape=shape, **options)) as worker:
            speed = float(worker.ask(STEPS))
        console.print(f"{name}: {speed:,.0f} tokens/s")
        return speed

    return side


def own_model(shape: list[int], configured: bool) -> Callable[[int], float]:
    """Return a function that trains a user's own model with ``model.fit`` on NumPy arrays."""
    if configured:
        from keras_lstmgen.system import malloc

        malloc.configure()
    import keras

    from benchmarks.keras_sides import Clock
    from keras_lstmgen.layers.lstm import LSTM

    s = Shape(*shape)
    inputs = [keras.Input((s.T,), batch_size=s.B, dtype="int32"), keras.layers.Embedding(s.V, s.H)]
    lstms = [LSTM(s.H, return_sequences=True, stateful=True) for _ in range(s.L)]
    model = keras.Sequential([*inputs, *lstms, keras.layers.Dense(s.V)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM), loss)
    ids = windows(s).reshape(-1, s.T + 1)
    x, y = ids[:, :-1], ids[:, 1:]

    def side(steps: int) -> float:
        clock, rows = Clock(), steps * s.B
        model.fit(x[:rows], y[:rows], batch_size=s.B, shuffle=False, verbose=0, callbacks=[clock])
        return rows * s.T / (clock.ended - clock.began)

    side(2)
    return side


def table(shape: Shape, figures: Mapping[str, Sequence[float]]) -> Table:
    """Return the speed of each side: slowest, median and fastest process, and the median ratio to PyTorch."""
    rows = []
    for name, speeds in figures.items():
        ratio = f"{measure.ratio(figures, name, TORCH):.2f}" if TORCH in figures else "–"
        rows.append([name, *(f"{f(speeds):,.0f}" for f in (min, statistics.median, max)), ratio])
    title = f"{shape}: tokens per second in new processes, {STEPS} updates each"
    return Table(title, ["side", "slowest", "median", "fastest", "x PyTorch"], rows)


if __name__ == "__main__":
    sys.exit(main())
