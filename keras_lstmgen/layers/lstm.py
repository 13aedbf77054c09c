"""LSTM layer with a native CPU kernel."""

import sys
from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.layers import compute_dtype, native_ops

if keras.backend.backend() != "tensorflow":
    raise ImportError("keras_lstmgen needs Keras with its TensorFlow backend; set KERAS_BACKEND=tensorflow")

TRAINER = keras.Model.fit.__module__  # module with the loops of fit, evaluate and predict
# Names of the kernels in messages.
KERNELS = {
    "plain": "portable C", "avx2": "AVX2", "avx512": "AVX512", "neon": "NEON",
    "avx512_bf16": "AVX512-BF16", "amx": "AMX", "neon_bf16": "NEON-BF16",
}  # fmt: skip


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class LSTM(keras.layers.LSTM):
    """LSTM layer with a native CPU kernel.

    The layer has the same weights as ``keras.layers.LSTM``, and accepts the same arguments. With the default precision
    and without weight drop, the layer also has the same results. It uses the implementation of Keras in four cases: on
    a GPU, if the kernel does not support an argument, if the compiled extension is missing, and in a function that may
    be exported. An exported function cannot call the kernel, because the kernel exists only in this process. Therefore
    the layer uses the kernel only during training, in eager execution, and in the functions that ``fit``, ``evaluate``
    and ``predict`` trace. An export contains none of these three.

    Sources: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Gers, Schmidhuber and Cummins, "Learning to
    Forget: Continual Prediction with LSTM", 2000 (forget gate); Wan et al., "Regularization of Neural Networks using
    DropConnect", 2013, and Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", 2018 (weight
    drop).

    Args:
        units: H, number of units.
        precision: type of the operands of the matrix products: "float32", "bfloat16", or "auto" (bfloat16 if it is
            faster on this CPU). Sums, gates and states are always float32. The implementation of Keras ignores
            this argument. With "bfloat16", the kernel raises ValueError if the CPU cannot multiply bfloat16.
        weight_drop: share of the recurrent weights to set to zero during training, from 0 to below 1. The layer selects
            these weights once per window, so the same weights are zero in all time steps of a window.
        **options: passed to ``keras.layers.LSTM``.

    Raises:
        ValueError: if the name of the precision is unknown.
    """

    def __init__(self, units: int, *, precision: str = "float32", weight_drop: float = 0.0, **options: Any) -> None:
        """Create the layer."""
        super().__init__(units, **options)
        self.precision, self.weight_drop = compute_dtype.check_precision(precision), weight_drop
        self.weight_drop_seed = keras.random.SeedGenerator(options.get("seed"))
        self.supports_jit = False  # XLA cannot compile the kernel

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        """Run the layer over a window; this method overrides the method of ``keras.layers.LSTM``.

        Args:
            sequences: float32 [B, T, E], inputs.
            initial_state: h and c before the window, each float32 [B, H].
            mask: bool [B, T], false for time steps to skip; None for no mask.
            training: whether dropout and weight drop are active.

        Returns:
            The output of the last step, float32 [B, H], the outputs of all steps, float32 [B, T, H], and a list with h
            and c after the window, each float32 [B, H].
        """
        if mask is not None or not self._is_supported() or not _can_use_kernel(training):
            return self._fallback(sequences, initial_state, mask, training)
        if training and self.dropout:
            sequences *= self.cell.get_dropout_mask(sequences[:, 0, :])[:, tf.newaxis, :]
        h, c = (tf.convert_to_tensor(part) for part in initial_state)
        weights = (self.cell.kernel.value, self._recurrent_kernel(training), self.cell.bias.value)
        bfloat16 = compute_dtype.uses_bfloat16(self.precision)
        outputs, (h, c) = native_ops.lstm(sequences, (h, c), weights, bfloat16=bfloat16)
        return h, outputs, [h, c]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "precision": self.precision, "weight_drop": self.weight_drop}

    def _fallback(self, sequences: Any, initial_state: Any, mask: Any, training: bool) -> Any:
        """Run the implementation of Keras; during training, apply weight drop to the recurrent weights."""
        if not training or not self.weight_drop:
            return super().inner_loop(sequences, initial_state, mask, training)
        recurrent = self._recurrent_kernel(training)
        # The first call creates the dropout mask and advances a random seed. A StatelessScope would discard the new
        # seed, so create the mask before the scope begins.
        self.cell.get_dropout_mask(sequences[:, 0, :])
        # Inside the scope, the variable of the recurrent kernel has the value with dropped weights. Keras passes
        # this variable to cuDNN too.
        with keras.StatelessScope(state_mapping=[(self.cell.recurrent_kernel, recurrent)]):
            return super().inner_loop(sequences, initial_state, mask, training)

    def _recurrent_kernel(self, training: bool) -> Any:
        """Return the recurrent kernel U, float32 [H, 4H].

        During training, weight drop sets some weights to zero and divides the others by 1 - ``weight_drop``.
        """
        weights = self.cell.recurrent_kernel.value
        if not training or not self.weight_drop:
            return weights
        return keras.random.dropout(weights, self.weight_drop, seed=self.weight_drop_seed)

    def _is_supported(self) -> bool:
        """Return whether the kernel supports the arguments of the layer."""
        activations = (self.activation, self.recurrent_activation) == (
            keras.activations.tanh,
            keras.activations.sigmoid,
        )
        unusual = self.recurrent_dropout or self.unroll or self.go_backwards or not self.use_bias
        return activations and not unusual and self.compute_dtype == "float32"


def _can_use_kernel(training: bool) -> bool:
    """Return whether the kernel is available and the calling function cannot be exported."""
    is_local = training or tf.executing_eagerly() or _is_traced_by_trainer()
    return is_local and native_ops.library() is not None and not compute_dtype.has_gpu()


def _is_traced_by_trainer() -> bool:
    """Return whether ``fit``, ``evaluate`` or ``predict`` is on the call stack."""
    frame = sys._getframe()
    while frame and frame.f_globals.get("__name__") != TRAINER:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def kernel_description(precision: str = "auto") -> str:
    """Return the name of the code that trains an LSTM layer on this machine, and the reason for its selection.

    Args:
        precision: precision of the layer: "float32", "bfloat16" or "auto".
    """
    if compute_dtype.has_gpu():
        return "cuDNN, because TensorFlow uses a GPU"
    if native_ops.library() is None:
        slow = "training takes 2 to 4 times as long; install gcc and then install keras_lstmgen again"
        return f"Keras's own loop: {native_ops.missing_reason()}; {slow}"
    bfloat16 = compute_dtype.uses_bfloat16(precision)
    name = native_ops.kernel_name(bfloat16=bfloat16)
    return f"{KERNELS.get(name, name)} in {'bfloat16' if bfloat16 else 'float32'}, {_precision_reason(precision)}"


def _precision_reason(precision: str) -> str:
    """Return why the kernel uses bfloat16 or float32."""
    if precision != "auto":
        return f"as precision = {precision} requires"
    if compute_dtype.uses_bfloat16(precision):
        return "the fastest of this processor"
    if native_ops.has_bfloat16():
        return "which is faster than bfloat16 on this processor"
    return "because this processor does not multiply bfloat16"
