"""The LSTM over a window on a CPU, in compiled code: the numbers of Keras's loop in a small part of its time.

``native/lstm.c`` does the work; here it is made an operator with a gradient. What makes it fast:

- The operands of [x, h] [W; U] and of its gradients are packed once a window, in the order in which they are read, so
  that a time step is products at the processor's full rate and nothing else: no small operators, no waiting.
- The four gates of some units are computed while their sums are still in registers.
- Each thread takes rows of the batch of its own through all steps, and meets the others only at the window's end.
- Operands may be bfloat16, where the processor multiplies them; sums, gates and states are float32 always. With matrix
  registers (AMX) products take less time than reading the weights: there each thread keeps those of units of its own in
  its cache, and threads meet after each step.

The softmax of the loss is here too (``native/softmax.c``): with a large vocabulary it takes longer than the LSTM.
"""

import ctypes
import functools
import importlib.machinery
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.system import cpu

ALIGNMENT = 64  # bytes; what begins there TensorFlow takes over without a copy
TEXTS_A_THREAD = 4  # of a step; with fewer a thread waits for weights rather than computes
NO_INSTRUCTIONS = -2  # of the compiled code: not on this processor; all else but 0 is that there was no memory
LITTLE = 1 << 14  # logits, whose softmax takes a few microseconds
KEPT = 3  # arrays that the forward pass leaves for the backward pass: gates, cell states, operands


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where it was installed without a C compiler."""
    folder = Path(__file__).parents[1] / "native"
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (path := folder / f"lstm{suffix}").is_file():
            return ctypes.CDLL(str(path))
    return None


def _found() -> ctypes.CDLL:
    """The compiled code, where it is known to be there."""
    code = library()
    assert code is not None
    return code


def has_bfloat16() -> bool:
    """Whether this processor multiplies pairs of bfloat16."""
    return library() is not None and bool(_found().lstm_has_bfloat16())


def gains_by_bfloat16() -> bool:
    """Whether it does so faster than it multiplies floats."""
    return has_bfloat16() and _found().lstm_has_bfloat16() > 1


def choose(kind: str) -> bool:
    """Compute from now on as another processor would, or as this one again: "best". False, and no change, if it cannot.

    In float32 "plain", "avx2" or "avx512", in bfloat16 "avx512_bf16" or "amx". "emulated" and "emulated amx" are these
    two for processors that do not multiply it: as wrong, but no faster than float32. For tests.
    """
    return library() is not None and _found().lstm_choose(kind.encode()) == 0


def lstm(x: Any, h0: Any, c0: Any, W: Any, U: Any, b: Any, bfloat16: bool = False) -> tuple[Any, Any, Any]:
    """Run a layer over a window.

    Args:
        x: float32 [B, T, E].
        h0: float32 [B, H].
        c0: float32 [B, H].
        W: float32 [E, 4H], the kernel; gates in Keras's order i, f, g, o.
        U: float32 [H, 4H], the recurrent kernel.
        b: float32 [4H].
        bfloat16: round the operands of all products to bfloat16; ValueError where the processor does not multiply it.

    Returns:
        The outputs float32 [B, T, H], and the last h and c, [B, H] each.
    """
    if bfloat16 and not has_bfloat16():
        raise ValueError("precision 'bfloat16': this processor does not multiply bfloat16; give 'auto' or 'float32'")

    @tf.custom_gradient
    def window(*inputs: Any) -> Any:
        kinds = [tf.float32] * 3 + [tf.uint8] * KEPT
        forward = functools.partial(_forward, bfloat16)
        results = tf.numpy_function(forward, inputs, kinds, stateful=False, name="lstm_forward")
        outputs = _shaped(results[:3], ([*x.shape[:2], U.shape[0]], h0.shape, c0.shape))

        @tf.custom_gradient
        def backward(*arguments: Any) -> Any:
            compute = functools.partial(_backward, bfloat16)
            kinds = [tf.float32] * len(inputs)
            found = tf.numpy_function(compute, arguments, kinds, stateful=False, name="lstm_backward")
            return _shaped(found, [value.shape for value in inputs]), _refuse

        def gradient(*gradients: Any) -> Any:
            return backward(x, W, U, *gradients, *results[3:])

        return tuple(outputs), gradient

    outputs, h, c = window(x, h0, c0, W, U, b)
    return outputs, h, c


def nats(labels: Any, products: Any, bias: Any) -> Any:
    """The negative log-likelihood of labels by the logits ``products + bias``, which are never in memory.

    Args:
        labels: int32 [N].
        products: float32 or bfloat16 [N, V]; its gradient is of the same type.
        bias: float32 [V].

    Returns:
        Float32 [N]. At run time ValueError for a label that is not from 0 to V - 1.
    """
    kind = tf.uint16 if products.dtype == tf.bfloat16 else tf.float32  # as NumPy knows it

    @tf.custom_gradient
    def rows(products: Any, bias: Any) -> Any:
        given, kinds = [tf.bitcast(products, kind), bias, labels], [tf.float32] * 2
        found, sums = tf.numpy_function(_nats, given, kinds, stateful=False, name="softmax_forward")

        @tf.custom_gradient
        def backward(by: Any) -> Any:
            kinds = [kind, tf.float32]
            back = tf.numpy_function(_nats_back, [*given, sums, by], kinds, stateful=False, name="softmax_backward")
            of_words, of_bias = _shaped(back, (products.shape, bias.shape))
            return (tf.bitcast(of_words, products.dtype), of_bias), _refuse

        return tf.ensure_shape(found, labels.shape), backward

    return rows(products, tf.convert_to_tensor(bias))


def _nats(*inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    """The negative log-likelihoods [N], and the logarithms of the sums that the gradient needs, [N]."""
    (N, V), labels = inputs[0].shape, inputs[-1]
    if N and not 0 <= labels.min() <= labels.max() < V:
        raise ValueError(f"loss: labels from {labels.min()} to {labels.max()}; give them from 0 to {V - 1}")
    found = [np.empty(N, np.float32) for _ in range(2)]
    _softmax("softmax_forward", _threads_for(inputs[0]), inputs, found)
    return found


def _nats_back(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """The gradients by the products [N, V] and by the bias [V]."""
    products, count = inputs[0], _threads_for(inputs[0])
    gradient = _aligned(products.nbytes).view(products.dtype).reshape(products.shape)
    by_bias = np.empty((count, products.shape[1]), np.float32)
    _softmax("softmax_backward", count, inputs, [gradient, by_bias])
    return [gradient, by_bias[0]]


def _softmax(name: str, count: int, *groups: Sequence[NDArray[Any]]) -> None:
    """Call it with so many threads."""
    products = groups[0][0]
    code: Callable[..., None] = getattr(_found(), name)
    code(count, int(products.dtype == np.uint16), (ctypes.c_long * 2)(*products.shape), *map(_pointers, groups))


def _threads_for(products: NDArray[Any]) -> int:
    """As many as there are cores, but one for little: more would take longer to start than to compute."""
    return max(1, min(cpu.available(), products.size // LITTLE))


def _refuse(*_: Any) -> Any:
    """Else TensorFlow would take the gradient of a gradient for nothing, and say nothing."""
    raise NotImplementedError("LSTM: no gradient of its gradient; take keras.layers.LSTM and a loss of Keras's for it")


def _shaped(values: Any, shapes: Any) -> list[Any]:
    return [tf.ensure_shape(value, shape) for value, shape in zip(values, shapes, strict=True)]


def _forward(bfloat16: bool, *inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Outputs [B,T,H], h and c [B,H], and what is kept."""
    (B, T, E), H = inputs[0].shape, inputs[1].shape[1]
    _check(inputs, ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,)))
    if not B * T:  # nothing to compute: the code begins at a first row and a first step
        return [np.zeros((B, T, H), np.float32), *inputs[1:3], *(_aligned(0) for _ in range(KEPT))]
    outputs = [np.empty(shape, np.float32) for shape in ((B, T, H), (B, H), (B, H))]
    sizes = (ctypes.c_long * KEPT)()
    _call("lstm_sizes", int(bfloat16), *map(ctypes.c_long, (B, T, E, H)), sizes)
    kept = [_aligned(size) for size in sizes]
    _run("lstm_forward", bfloat16, (B, T, E, H), inputs, outputs, kept)
    return outputs + kept


def _backward(bfloat16: bool, x: NDArray[np.float32], *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Gradients by x, h0, c0, W, U and b."""
    *given, gates, c, operands = inputs  # W, U, and the gradients by the outputs and the last h and c
    (B, T, E), H = x.shape, given[1].shape[0]
    shapes = ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,))
    if not B * T:
        zeros = [np.zeros(shape, np.float32) for shape in shapes]
        return [zeros[0], *given[3:5], *zeros[3:]]  # h and c went through: so do their gradients
    outputs = [np.empty(shape, np.float32) for shape in shapes]
    _run("lstm_backward", bfloat16, (B, T, E, H), given, outputs, [gates, c, operands])
    return outputs


def _check(inputs: tuple[NDArray[np.float32], ...], shapes: tuple[tuple[int, ...], ...]) -> None:
    """Refuse what the compiled code, which knows no bounds, would read beyond."""
    for name, value, shape in zip(("x", "h0", "c0", "W", "U", "b"), inputs, shapes, strict=True):
        if value.shape != shape or value.dtype != np.float32:
            raise ValueError(f"LSTM: {name} is {value.dtype} {value.shape}; give float32 {shape}")


def _run(name: str, bfloat16: bool, shape: tuple[int, ...], *groups: Any) -> None:
    cores = cpu.available()
    counts = cores, max(1, min(cores, shape[0] // TEXTS_A_THREAD))
    _call(name, int(bfloat16), (ctypes.c_int * 2)(*counts), (ctypes.c_long * 4)(*shape), *map(_pointers, groups))


def _pointers(arrays: Sequence[NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _call(name: str, *arguments: Any) -> None:
    function: Callable[..., int] = getattr(_found(), name)
    code = function(*arguments)
    if code == NO_INSTRUCTIONS:
        raise ValueError(f"{name}: this processor does not multiply bfloat16")
    if code:
        raise MemoryError(f"{name}: no memory for a window this large")


def _aligned(size: int) -> NDArray[np.uint8]:
    """``size`` bytes that begin at a multiple of ALIGNMENT."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
