"""TensorFlow operators that call the native code: an LSTM layer over a window, and the cross entropy of the loss.

``native/lstm.c`` computes the same numbers as the LSTM of Keras. It is faster for these reasons:

- It packs the operands of the products ``[x, h] [W; U]`` and of their gradients once per window, in the order of their
  use. A time step then runs at the full speed of the processor, without many small TensorFlow operators.
- It computes the four gates of a unit while their sums are in registers.
- Each thread computes all time steps of its own rows of the batch. The threads wait for each other only at the end of
  the window.
- On processors that can multiply bfloat16, the operands can be bfloat16. Sums, gates and states are always float32.
- On processors with AMX registers, products take less time than loading the weights from memory. On these processors,
  each thread keeps the weights of its own units in its cache, and the threads wait for each other after each step.

``native/softmax.c`` computes the cross entropy without storing the logits. With a large vocabulary, the cross entropy
takes longer than the LSTM.
"""

import ctypes
import functools
import importlib.machinery
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.layers import memory_pool
from keras_lstmgen.system import cpu

ROWS_PER_THREAD = 4  # minimum number of batch rows per thread; with fewer rows, a thread mainly waits for the weights
NO_INSTRUCTIONS = -2  # error code if the processor cannot multiply bfloat16; other codes except 0 mean out of memory
LOGITS_PER_THREAD = 1 << 14  # minimum number of logits per thread; for fewer logits, starting a thread takes too long
FOLDER = Path(__file__).parents[1] / "native"
MISSING = "missing.txt"  # written by setup.py if it could not build the native code
SAVED = 3  # number of arrays that the forward pass keeps for the backward pass: gates, cell states, operands


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the native code, or None if it is missing; ``missing_reason`` returns the reason."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (path := FOLDER / f"lstm{suffix}").is_file():
            return ctypes.CDLL(str(path))
    return None


def missing_reason() -> str:
    """Return why the native code is missing; call this function only if ``library()`` is None."""
    path = FOLDER / MISSING
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    return f"the installed package has no native code for Python {sys.version_info.major}.{sys.version_info.minor}"


def kernel_name(*, bfloat16: bool) -> str:
    """Return the name of the kernel in use, such as "avx2" for float32 or "amx" for bfloat16; "" if there is none."""
    function = _loaded_library().lstm_kernel
    function.restype = ctypes.c_char_p
    return str(function(int(bfloat16)).decode())


def _loaded_library() -> ctypes.CDLL:
    """Return the native code; call this function only if ``library()`` is not None."""
    code = library()
    assert code is not None
    return code


def has_bfloat16() -> bool:
    """Return whether this processor can multiply bfloat16 in the native code."""
    return library() is not None and bool(_loaded_library().lstm_has_bfloat16())


def is_bfloat16_faster() -> bool:
    """Return whether this processor multiplies bfloat16 faster than float32."""
    return has_bfloat16() and _loaded_library().lstm_has_bfloat16() > 1


def select_kernel(name: str) -> bool:
    """Select a kernel of the native code by its name, for tests.

    Args:
        name: "plain", "avx2", "avx512" or "neon" for float32; "avx512_bf16", "amx", "neon_bf16", "emulated" or
            "emulated amx" for bfloat16; "best" for the fastest kernels of this processor. The kernels "emulated" and
            "emulated amx" are for processors that cannot multiply bfloat16. They compute the same numbers as
            "avx512_bf16" and "amx", but are not faster than the float32 kernels.

    Returns:
        True if the kernel was selected. False if this processor cannot run the kernel; the selection then stays
            unchanged.
    """
    return library() is not None and _loaded_library().lstm_choose(name.encode()) == 0


def lstm(
    x: Any, state: tuple[Any, Any], weights: tuple[Any, Any, Any], *, bfloat16: bool = False
) -> tuple[Any, tuple[Any, Any]]:
    """Run an LSTM layer over a window.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers, Schmidhuber and
    Cummins, "Learning to Forget: Continual Prediction with LSTM", 2000.

    Args:
        x: float32 [B, T, E], inputs.
        state: h and c before the window, each float32 [B, H].
        weights: kernel W float32 [E, 4H], recurrent kernel U float32 [H, 4H] and bias b float32 [4H], with the gates in
            the order of Keras: input gate, forget gate, candidate, output gate.
        bfloat16: whether to round the operands of all products to bfloat16.

    Returns:
        The outputs, float32 [B, T, H], and h and c after the window, each float32 [B, H].

    Raises:
        ValueError: if ``bfloat16`` is true and the processor cannot multiply bfloat16.
    """
    if bfloat16 and not has_bfloat16():
        raise ValueError("precision 'bfloat16': this processor does not multiply bfloat16; give 'auto' or 'float32'")
    (h0, c0), (W, U, b) = state, weights

    @tf.custom_gradient
    def window(*inputs: Any) -> Any:
        dtypes = [tf.float32] * 3 + [tf.uint8] * SAVED
        forward = functools.partial(_forward, bfloat16)
        results = tf.numpy_function(forward, inputs, dtypes, stateful=False, name="lstm_forward")
        outputs = _with_shapes(results[:3], ([*x.shape[:2], U.shape[0]], h0.shape, c0.shape))

        @tf.custom_gradient
        def backward(*arguments: Any) -> Any:
            compute = functools.partial(_backward, bfloat16)
            dtypes = [tf.float32] * len(inputs)
            gradients = tf.numpy_function(compute, arguments, dtypes, stateful=False, name="lstm_backward")
            return _with_shapes(gradients, [value.shape for value in inputs]), _refuse_second_derivative

        def gradient(*upstream: Any) -> Any:
            return backward(x, W, U, *upstream, *results[3:])

        return tuple(outputs), gradient

    outputs, h, c = window(x, h0, c0, W, U, b)
    return outputs, (h, c)


def cross_entropy(labels: Any, products: Any, bias: Any) -> Any:
    """Compute the cross entropy of labels, without storing the logits ``products + bias``.

    Args:
        labels: int32 [N], ids from 0 to V - 1. Other values raise ValueError when the graph runs.
        products: float32 or bfloat16 [N, V], logits without the bias. Their gradient has the same type.
        bias: float32 [V].

    Returns:
        float32 [N], cross entropy of each label in nats.
    """
    dtype = tf.uint16 if products.dtype == tf.bfloat16 else tf.float32  # NumPy has no bfloat16

    @tf.custom_gradient
    def rows(products: Any, bias: Any) -> Any:
        inputs, dtypes = [tf.bitcast(products, dtype), bias, labels], [tf.float32] * 2
        losses, log_sums = tf.numpy_function(_softmax_forward, inputs, dtypes, stateful=False, name="softmax_forward")

        @tf.custom_gradient
        def backward(upstream: Any) -> Any:
            arguments, dtypes = [*inputs, log_sums, upstream], [dtype, tf.float32]
            found = tf.numpy_function(_softmax_backward, arguments, dtypes, stateful=False, name="softmax_backward")
            by_products, by_bias = _with_shapes(found, (products.shape, bias.shape))
            return (tf.bitcast(by_products, products.dtype), by_bias), _refuse_second_derivative

        return tf.ensure_shape(losses, labels.shape), backward

    return rows(products, tf.convert_to_tensor(bias))


def _softmax_forward(*inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Return the cross entropies and the log sum exp of the logits, each float32 [N].

    ``inputs`` are the products, the bias and the labels, with the shapes that ``cross_entropy`` requires.
    """
    (N, V), labels = inputs[0].shape, inputs[-1]
    if N and not 0 <= labels.min() <= labels.max() < V:
        raise ValueError(f"loss: labels from {labels.min()} to {labels.max()}; give them from 0 to {V - 1}")
    outputs = [np.empty(N, np.float32) for _ in range(2)]
    _call_softmax("softmax_forward", _softmax_threads(inputs[0]), inputs, outputs)
    return outputs


def _softmax_backward(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the gradient with respect to the products, [N, V], and the gradient with respect to the bias, [V].

    ``inputs`` are the products, the bias, the labels, log sum exp of the logits, and the gradient with respect to the
    cross entropies.
    """
    products, threads = inputs[0], _softmax_threads(inputs[0])
    gradient = memory_pool.allocate(products.nbytes).view(products.dtype).reshape(products.shape)
    by_bias = np.empty((threads, products.shape[1]), np.float32)
    _call_softmax("softmax_backward", threads, inputs, [gradient, by_bias])
    return [gradient, by_bias[0]]


def _call_softmax(name: str, threads: int, *groups: Sequence[NDArray[Any]]) -> None:
    """Call the function ``name`` of ``softmax.c``, which starts ``threads`` threads."""
    products = groups[0][0]
    function: Callable[..., None] = getattr(_loaded_library(), name)
    is_bfloat16 = int(products.dtype == np.uint16)
    function(threads, is_bfloat16, (ctypes.c_long * 2)(*products.shape), *map(_pointers, groups))


def _softmax_threads(products: NDArray[Any]) -> int:
    """Return the number of threads for the array ``products``: at most one per core."""
    return max(1, min(cpu.available(), products.size // LOGITS_PER_THREAD))


def _refuse_second_derivative(*_: Any) -> Any:
    """Raise NotImplementedError. Without this function, TensorFlow would compute a wrong second derivative."""
    raise NotImplementedError(
        "LSTM: the native code has no second derivatives; use keras.layers.LSTM and a loss of Keras"
    )


def _with_shapes(values: Any, shapes: Any) -> list[Any]:
    """Return tensors with the given static shapes."""
    return [tf.ensure_shape(value, shape) for value, shape in zip(values, shapes, strict=True)]


def _forward(bfloat16: bool, *inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Compute the forward pass of ``lstm``.

    ``inputs`` are x, h0, c0, W, U and b, with the shapes that ``lstm`` requires. The result contains the outputs,
    float32 [B, T, H], h and c after the window, each float32 [B, H], and the arrays that ``_backward`` needs.
    """
    (B, T, E), H = inputs[0].shape, inputs[1].shape[1]
    _check(inputs, ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,)))
    if not B * T:  # the native code requires at least one row and one step
        return [np.zeros((B, T, H), np.float32), *inputs[1:3], *(memory_pool.allocate(0) for _ in range(SAVED))]
    outputs = [_floats(shape) for shape in ((B, T, H), (B, H), (B, H))]
    sizes = (ctypes.c_long * SAVED)()
    _call("lstm_sizes", int(bfloat16), *map(ctypes.c_long, (B, T, E, H)), sizes)
    saved = [memory_pool.allocate(size) for size in sizes]
    _run("lstm_forward", bfloat16, (B, T, E, H), inputs, outputs, saved)
    return outputs + saved


def _backward(bfloat16: bool, x: NDArray[np.float32], *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Compute the backward pass of ``lstm``: the gradients with respect to x, h0, c0, W, U and b.

    ``inputs`` are W, U, three gradients and the arrays that ``_forward`` returned for the backward pass. The three
    gradients are with respect to the outputs, to h after the window and to c after the window.
    """
    *given, gates, c, operands = inputs
    (B, T, E), H = x.shape, given[1].shape[0]
    shapes = ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,))
    if not B * T:
        zeros = [np.zeros(shape, np.float32) for shape in shapes]
        # Without steps, h and c do not change, so the gradients with respect to h and c do not change either.
        return [zeros[0], *given[3:5], *zeros[3:]]
    outputs = [_floats(shape) for shape in shapes]
    _run("lstm_backward", bfloat16, (B, T, E, H), given, outputs, [gates, c, operands])
    return outputs


def _check(inputs: tuple[NDArray[np.float32], ...], shapes: tuple[tuple[int, ...], ...]) -> None:
    """Raise ValueError if a shape or dtype is wrong, because the native code does not check bounds."""
    for name, value, shape in zip(("x", "h0", "c0", "W", "U", "b"), inputs, shapes, strict=True):
        if value.shape != shape or value.dtype != np.float32:
            raise ValueError(f"LSTM: {name} is {value.dtype} {value.shape}; give float32 {shape}")


def _run(name: str, bfloat16: bool, shape: tuple[int, ...], *groups: Any) -> None:
    """Call ``lstm_forward`` or ``lstm_backward`` of ``lstm.c``; ``shape`` is (B, T, E, H)."""
    cores = cpu.available()
    counts = cores, max(1, min(cores, shape[0] // ROWS_PER_THREAD))
    _call(name, int(bfloat16), (ctypes.c_int * 2)(*counts), (ctypes.c_long * 4)(*shape), *map(_pointers, groups))


def _pointers(arrays: Sequence[NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of arrays as a C array."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _call(name: str, *arguments: Any) -> None:
    """Call a function of ``lstm.c``; raise an exception if it returns an error code."""
    function: Callable[..., int] = getattr(_loaded_library(), name)
    code = function(*arguments)
    if code == NO_INSTRUCTIONS:
        raise ValueError(f"{name}: this processor does not multiply bfloat16")
    if code:
        raise MemoryError(f"{name}: not enough memory for the window; use a smaller batch or window")


def _floats(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of ``shape`` that is not initialized."""
    return memory_pool.allocate(4 * math.prod(shape)).view(np.float32).reshape(shape)
