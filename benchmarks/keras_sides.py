"""Measure training in TensorFlow: the model of this package, and the same model built from Keras layers."""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.shapes import CLIP_NORM, DROPOUT, LEARNING_RATE, Shape, windows

CUDNN = rb"\w*(?:[Cc]udnn_?RNN|cudnn\w*rnn|RNN_?block|RNNcell|LSTM_elem|persistRNN)\w*"  # in the names of its kernels


def ours(shape: list[int], precision: str = "auto") -> Callable[[int], float]:
    """A side: trains the recipe's model so many steps and gives tokens per second.

    RuntimeError without our kernel, UserError for a precision that this machine has not.
    """
    from keras_lstmgen.data import stream_windows
    from keras_lstmgen.layers import native_ops
    from keras_lstmgen.system import cpu, malloc
    from keras_lstmgen.training import input_pipeline

    cpu.configure()
    malloc.configure()
    if native_ops.library() is None and not tf.config.list_physical_devices("GPU"):
        raise RuntimeError("the LSTM's own code is not compiled here; install with a C compiler")
    input_pipeline.check_precision(precision)
    s = Shape(*shape)
    ids = windows(s)[:, :, :-1].transpose(1, 0, 2).reshape(-1)
    batching = stream_windows.Batching(s.B, s.T, epochs=0, seed=0)
    return trained(our_model(s, precision), stream_windows.dataset(ids, batching), s)


def our_model(shape: Shape, precision: str) -> keras.Sequential:
    """What ``keras-lstmgen train`` trains: model, optimizer and clipping of a recipe."""
    from keras_lstmgen.config import recipe
    from keras_lstmgen.training import trainer

    values = {
        "model.layers": shape.L, "model.units": shape.H, "model.embedding_size": shape.H, "model.dropout": DROPOUT,
        "training.batch_size": shape.B, "training.window": shape.T, "training.optimizer": "adam",
        "training.learning_rate": LEARNING_RATE, "training.clip_norm": CLIP_NORM, "training.precision": precision,
    }  # fmt: skip
    return trainer.compile_model(recipe.override(recipe.Recipe(), values), np.ones(shape.V, np.int64))


def of_keras(shape: list[int], unroll: bool, kept: bool = False) -> Callable[[int], float]:
    """A side: trains ``keras.layers.LSTM``; TensorFlow's threads are its own choice.

    Nothing of this tool is loaded but, where memory is to be ``kept``, what keeps it for our side.
    """
    if kept:
        from keras_lstmgen.system import malloc

        malloc.configure()
    s = Shape(*shape)
    ids = windows(s)
    ds = tf.data.Dataset.from_tensor_slices((ids[:, :, :-1], ids[:, :, 1:])).repeat().prefetch(8)
    return trained(keras_model(s, unroll), ds, s)


def keras_model(shape: Shape, unroll: bool) -> keras.Sequential:
    """The same model, written as anyone would."""
    layers: list[keras.layers.Layer] = [keras.Input(batch_shape=(shape.B, shape.T), dtype="int32")]
    layers.append(keras.layers.Embedding(shape.V, shape.H))
    for _ in range(shape.L):
        layers.append(keras.layers.SpatialDropout1D(DROPOUT))
        layers.append(keras.layers.LSTM(shape.H, return_sequences=True, stateful=True, unroll=unroll))
    layers += [keras.layers.SpatialDropout1D(DROPOUT), keras.layers.Dense(shape.V)]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


class Clock(keras.callbacks.Callback):
    """Stores the times when the first step began and the last step ended."""

    began = ended = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Store the time before the first step."""
        if batch == 0:
            self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Store the time after the step."""
        float(logs["loss"])  # a GPU may still be at it
        self.ended = time.perf_counter()


def trained(model: keras.Sequential, ds: tf.data.Dataset, shape: Shape) -> Callable[[int], float]:
    """A side: ``model.fit`` on so many batches of ``ds``, timed from the first step to the last."""
    clock = Clock()

    def side(steps: int) -> float:
        before = int(model.optimizer.iterations)
        model.fit(ds, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
        return (int(model.optimizer.iterations) - before) * shape.B * shape.T / (clock.ended - clock.began)

    side(2)  # traces
    return side


def gpus() -> Callable[[int], int]:
    """A side that says how many GPUs TensorFlow sees."""
    return lambda _: len(tf.config.list_physical_devices("GPU"))


def cudnn_kernels(shape: list[int]) -> Callable[[int], list[str]]:
    """A side that trains ours under TensorFlow's profiler and names what of cuDNN's RNN ran."""
    side = ours(shape, "float32")
    return lambda _: traced(lambda: side(2), CUDNN)


def traced(run: Callable[[], Any], pattern: bytes) -> list[str]:
    """The names in the profiler's trace of ``run`` that have ``pattern`` in them, sorted."""
    return sorted({name.decode() for name in re.findall(pattern, trace(run))})


def trace(run: Callable[[], Any]) -> bytes:
    """What TensorFlow's profiler writes of ``run``: an ``XSpace``, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run()
        return b"".join(path.read_bytes() for path in Path(folder).rglob("*.xplane.pb"))
