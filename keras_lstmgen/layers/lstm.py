"""The layers that Keras does not have: a fast LSTM for CPUs, and outputs: fast, or of the embedding's weights."""

import sys
from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.layers import native_ops

if keras.backend.backend() != "tensorflow":
    raise ImportError("keras_lstmgen needs Keras with its TensorFlow backend; set KERAS_BACKEND=tensorflow")

PRECISIONS = ("float32", "bfloat16", "auto")
TRAINER = keras.Model.fit.__module__  # where fit, evaluate and predict have their loops


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class LSTM(keras.layers.LSTM):
    """``keras.layers.LSTM``, the same weights, arguments and results; on a CPU by a kernel of its own.

    On a GPU, with arguments that the kernel does not know, or without the compiled kernel, it is the parent. So it is
    in a function that may be saved, by ``model.export`` say, since the kernel lives in this process alone: one that
    does not train, and that neither ``evaluate`` nor ``predict`` traces. A function that trains cannot be saved.
    """

    def __init__(self, units: int, *, precision: str = "float32", weight_drop: float = 0.0, **options: Any) -> None:
        """Take the parent's arguments, and two more.

        Args:
            units: H.
            precision: of the operands of the kernel's products, "float32", "bfloat16", or "auto": bfloat16 where the
                processor gains by it. Sums, gates and states are float32. The parent pays no heed to it. ValueError
                for another name; for "bfloat16" not before the kernel is asked for what the processor has not.
            weight_drop: share of the recurrent kernel's weights that are dropped in training, the same for all steps
                of a window (DropConnect: Wan et al., 2013; on the recurrent weights: Merity et al., "Regularizing and
                Optimizing LSTM Language Models", 2018).
            options: of ``keras.layers.LSTM``.
        """
        super().__init__(units, **options)
        self.precision, self.weight_drop = checked(precision), weight_drop
        self.weight_drop_seed = keras.random.SeedGenerator(options.get("seed"))
        self.supports_jit = False  # XLA cannot compile the kernel

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        """Outputs of a window: what Keras's own loop gives, (last output, outputs, states)."""
        recurrent = self._recurrent_kernel(training)
        if mask is not None or not self._is_plain() or not _runs_kernel(training):
            if not training or not self.weight_drop:
                return super().inner_loop(sequences, initial_state, mask, training)
            self.cell.get_dropout_mask(sequences[:, 0, :])  # drawn (and kept) outside of the scope, which forgets draws
            # Inside the scope the recurrent kernel reads as what is left of it: cuDNN gets it like any other.
            with keras.StatelessScope(state_mapping=[(self.cell.recurrent_kernel, recurrent)]):
                return super().inner_loop(sequences, initial_state, mask, training)
        if training and self.dropout:
            sequences *= self.cell.get_dropout_mask(sequences[:, 0, :])[:, tf.newaxis, :]
        h, c = (tf.convert_to_tensor(state) for state in initial_state)
        weights = (self.cell.kernel.value, recurrent, self.cell.bias.value)
        outputs, h, c = native_ops.lstm(sequences, h, c, *weights, bfloat16=in_bfloat16(self.precision))
        return h, outputs, [h, c]

    def get_config(self) -> dict[str, Any]:
        """Add the two arguments of its own."""
        return {**super().get_config(), "precision": self.precision, "weight_drop": self.weight_drop}

    def _recurrent_kernel(self, training: bool) -> Any:
        """U, in training with weights dropped and the others scaled up."""
        weights = self.cell.recurrent_kernel.value
        if not training or not self.weight_drop:
            return weights
        return keras.random.dropout(weights, self.weight_drop, seed=self.weight_drop_seed)

    def _is_plain(self) -> bool:
        """Whether the layer is the textbook's, in float32."""
        activations = (self.activation, self.recurrent_activation) == (
            keras.activations.tanh,
            keras.activations.sigmoid,
        )
        unusual = self.recurrent_dropout or self.unroll or self.go_backwards or not self.use_bias
        return activations and not unusual and self.compute_dtype == "float32"


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Output(keras.layers.Dense):
    """``keras.layers.Dense`` whose products may have operands in bfloat16: float32 [B, T, H] to logits [B, T, V]."""

    def __init__(self, units: int, *, precision: str = "float32", in_loss: bool = False, **options: Any) -> None:
        """Take V, ``precision`` as ``LSTM`` has it, and whether training leaves the product to the loss."""
        super().__init__(units, **options)
        self.precision, self.in_loss = checked(precision), in_loss
        self.draws_seed = keras.random.SeedGenerator()  # of the loss: a checkpoint keeps what belongs to a layer

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Give the logits of the next token; in training, where the loss makes them, the inputs."""
        if training and self.in_loss:
            return inputs
        return self.logits(inputs)

    def logits(self, inputs: Any) -> Any:
        """Float32 [..., H] gives [..., V]."""
        return _logits(inputs, *self.products(_rows(inputs)))

    def products(self, rows: Any) -> tuple[Any, Any]:
        """Float32 [N, H] gives what ``product`` does, [N, V], and the bias [V] that makes logits of it."""
        return product(rows, self.kernel.value, self.precision), self.bias.value

    def part(self, ids: Any) -> tuple[Any, Any]:
        """Weights float32 [C, H] and bias [C] of some ids, int32 [C]."""
        return tf.transpose(tf.gather(self.kernel.value, ids, axis=1)), tf.gather(self.bias.value, ids)

    def get_config(self) -> dict[str, Any]:
        """Add the arguments of its own."""
        return {**super().get_config(), "precision": self.precision, "in_loss": self.in_loss}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class TiedOutput(keras.layers.Layer):
    """Logits from the embedding's own matrix: ``h @ embeddings.T + bias``.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.

    In float32 [B, T, E], out float32 [B, T, V].
    """

    def __init__(
        self,
        embedding: keras.layers.Embedding,
        *,
        precision: str = "float32",
        in_loss: bool = False,
        **options: Any,
    ) -> None:
        """Take the layer whose weights are shared (a file has them once); the others as ``Output`` has them."""
        super().__init__(**options)
        self.embedding, self.precision, self.in_loss = embedding, checked(precision), in_loss
        self.draws_seed = keras.random.SeedGenerator()

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 (Keras passes it)
        """Add the bias, the only weight of its own."""
        self.bias = self.add_weight(shape=(self.embedding.input_dim,), initializer="zeros", name="bias")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Give the logits of the next token; in training, where the loss makes them, the inputs."""
        if training and self.in_loss:
            return inputs
        return self.logits(inputs)

    def logits(self, inputs: Any) -> Any:
        """Float32 [..., E] gives [..., V]."""
        return _logits(inputs, *self.products(_rows(inputs)))

    def products(self, rows: Any) -> tuple[Any, Any]:
        """Float32 [N, E] gives what ``product`` does, [N, V], and the bias [V] that makes logits of it."""
        return product(rows, self.embedding.embeddings.value, self.precision, turned=True), self.bias.value

    def part(self, ids: Any) -> tuple[Any, Any]:
        """Weights float32 [C, E] and bias [C] of some ids, int32 [C]."""
        return tf.gather(self.embedding.embeddings.value, ids), tf.gather(self.bias.value, ids)

    def get_config(self) -> dict[str, Any]:
        """Name the embedding; Keras stores a layer that stands twice in a file once."""
        embedding = keras.saving.serialize_keras_object(self.embedding)
        own = {"embedding": embedding, "precision": self.precision, "in_loss": self.in_loss}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TiedOutput":
        """Find the embedding again."""
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        if not isinstance(embedding, keras.layers.Embedding):
            raise TypeError("TiedOutput: its embedding is not an Embedding layer")
        return cls(embedding, **config)


def checked(precision: str) -> str:
    """The precision; ValueError where there is none of that name."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}")
    return precision


def product(x: Any, weights: Any, precision: str, turned: bool = False) -> Any:
    """[N, H] times [H, V], or the turned [V, H]: float32, or bfloat16 where the operands are, its last rounding."""
    kind = tf.bfloat16 if in_bfloat16(precision) else tf.float32
    return tf.matmul(tf.cast(x, kind), tf.cast(weights, kind), transpose_b=turned)


def _rows(x: Any) -> Any:
    """[..., H] as [N, H]."""
    return tf.reshape(x, [-1, x.shape[-1]])


def _logits(x: Any, products: Any, bias: Any) -> Any:
    """Float32 [..., V] for what was [..., H]."""
    flat = tf.cast(products, tf.float32) + bias
    return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [bias.shape[0]]], axis=0))


def in_bfloat16(precision: str) -> bool:
    """Whether products have operands in bfloat16: "auto" where a processor gains by it, and no GPU does it."""
    return precision == "bfloat16" or (precision == "auto" and native_ops.gains_by_bfloat16() and not has_gpu())


def _runs_kernel(training: bool) -> bool:
    """Whether the kernel is here, and what calls it stays in this process."""
    stays = training or tf.executing_eagerly() or _is_traced_by_trainer()
    return stays and native_ops.library() is not None and not has_gpu()


def _is_traced_by_trainer() -> bool:
    """Whether this is called, however deep, from ``fit``, ``evaluate`` or ``predict``."""
    frame = sys._getframe()
    while frame and frame.f_globals.get("__name__") != TRAINER:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def without_kernel() -> str:
    """Say in one line that training is slow for lack of the compiled code; nothing where it is here or a GPU works."""
    if native_ops.library() is not None or has_gpu():
        return ""
    return (
        "The native code is missing: keras_lstmgen was installed without a C compiler. Training takes two to four "
        "times as long; install gcc and then keras_lstmgen again."
    )


def policy(precision: str) -> str:
    """The dtype policy of an LSTM layer that trains: on a GPU the kernel does not round, so that Keras has to."""
    return "mixed_bfloat16" if precision == "bfloat16" and has_gpu() else "float32"


def has_gpu() -> bool:
    """Whether TensorFlow sees one."""
    return bool(tf.config.list_logical_devices("GPU"))
