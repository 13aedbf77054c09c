"""Choose between float32 and bfloat16 for the operands of matrix products."""

import tensorflow as tf

from keras_lstmgen.layers import native_ops

PRECISIONS = ("float32", "bfloat16", "auto")


def check_precision(precision: str) -> str:
    """Return the name of a precision unchanged; raise ValueError if the name is unknown.

    >>> from keras_lstmgen.layers.compute_dtype import check_precision
    >>> check_precision("auto")
    'auto'
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    return precision


def uses_bfloat16(precision: str) -> bool:
    """Return whether matrix products have bfloat16 operands.

    On a CPU, the precision "auto" selects bfloat16 if this CPU multiplies bfloat16 faster than float32. With a GPU,
    "auto" selects float32.
    """
    return precision == "bfloat16" or (precision == "auto" and native_ops.is_bfloat16_faster() and not has_gpu())


def dtype_policy(precision: str) -> str:
    """Return the Keras dtype policy of an LSTM layer during training.

    On a CPU, the policy is always "float32", because the native kernel itself rounds the operands to bfloat16. On a
    GPU, the policy for the precision "bfloat16" is "mixed_bfloat16", because Keras must round the operands there.
    """
    return "mixed_bfloat16" if precision == "bfloat16" and has_gpu() else "float32"


def has_gpu() -> bool:
    """Return whether TensorFlow can use a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))
