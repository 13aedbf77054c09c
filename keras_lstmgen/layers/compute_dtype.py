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
    """Return whether products have bfloat16 operands.

    The precision "auto" selects bfloat16 on a CPU if bfloat16 products are faster there than float32 products. With a
    GPU, it selects float32.
    """
    return precision == "bfloat16" or (precision == "auto" and native_ops.is_bfloat16_faster() and not has_gpu())


def dtype_policy(precision: str) -> str:
    """Return the Keras dtype policy of an LSTM layer during training.

    On a CPU, the native kernel rounds the operands to bfloat16, so the policy is "float32". On a GPU, Keras must round
    them, so the policy is "mixed_bfloat16" with the precision "bfloat16".
    """
    return "mixed_bfloat16" if precision == "bfloat16" and has_gpu() else "float32"


def has_gpu() -> bool:
    """Return whether TensorFlow can use a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))
