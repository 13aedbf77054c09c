"""Check that the inference step can reproduce the results of a Keras model.

The inference step supports models with an embedding, LSTM layers, optional attention and an output layer. Some
arguments change the equations of a layer. For each of these arguments, the inference step supports only one value.
"""

from typing import Any

import keras

from keras_lstmgen.layers import lstm
from keras_lstmgen.layers.attention import Attention
from keras_lstmgen.layers.ensemble import Ensemble, members_of
from keras_lstmgen.layers.output import Output, TiedOutput
from keras_lstmgen.layers.pointer_generator import Pointer
from keras_lstmgen.layers.regularization import ActivationRegularization, DroppedEmbedding, SharedDropout
from keras_lstmgen.utils.errors import UserError

EMBEDDINGS = (keras.layers.Embedding, DroppedEmbedding)
CELLS = (keras.layers.LSTM, lstm.LSTM)
OUTPUTS = (keras.layers.Dense, Output, TiedOutput)
IN_TRAINING = (keras.layers.Dropout, keras.layers.SpatialDropout1D, SharedDropout, ActivationRegularization)

# Supported value of each argument that changes the results of a layer outside of training.
ARGUMENTS: dict[type, dict[str, Any]] = {
    keras.layers.Embedding: {"mask_zero": False, "lora_rank": None},
    keras.layers.LSTM: {
        "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "go_backwards": False,
    },
    keras.layers.Dense: {"activation": "linear", "use_bias": True, "lora_rank": None},
}  # fmt: skip


def check(model: keras.Sequential) -> None:
    """Raise UserError with the name of the layer if the inference step does not support the model."""
    if not isinstance(model, keras.Sequential):
        raise UserError(f"model: is a {type(model).__name__}; give a keras.Sequential")
    outer = model.layers[0] if model.layers else None
    if isinstance(outer, Ensemble | Pointer) and len(model.layers) > 1:
        raise _unknown(model.layers[1], f"{type(outer).__name__} must be the only layer of the model")
    for member in members_of(model) if model.layers else [model]:
        _check_order(member)
        for layer in member.layers:
            _check_arguments(layer)
            _check_weights(layer)


def _check_order(member: keras.Sequential) -> None:
    """Raise UserError if the layers are missing or in a wrong order.

    The order is: embedding, at least one LSTM layer, attention (optional), output. The function ignores dropout and
    activation regularization.
    """
    *before, output = member.layers or [None]
    parts = [layer for layer in before if type(layer) not in IN_TRAINING]
    if not parts or type(parts[0]) not in EMBEDDINGS:
        raise _unknown(parts[0] if parts else output, "the first layer must be an Embedding")
    cells = parts[1:-1] if type(parts[-1]) is Attention else parts[1:]
    for layer in cells:
        if type(layer) not in CELLS:
            raise _unknown(layer, "between Embedding and output, only LSTM layers and then one Attention are allowed")
    if not cells:
        raise _unknown(output, "there must be an LSTM layer before the output")
    if type(output) not in OUTPUTS:
        raise _unknown(output, "the last layer must be a Dense, Output or TiedOutput")
    if isinstance(output, TiedOutput) and output.embedding is not parts[0]:
        raise _unknown(output, "TiedOutput must use the weights of the first layer of the model")


def _unknown(layer: keras.layers.Layer | None, rule: str) -> UserError:
    """Return the exception for a layer that violates a rule, or for a model without layers."""
    if layer is None:
        return UserError(f"model: has no layers; {rule}")
    return UserError(f"model: layer '{layer.name}' ({type(layer).__name__}) is not supported here; {rule}")


def _check_arguments(layer: keras.layers.Layer) -> None:
    """Raise UserError if an argument of the layer has an unsupported value."""
    config = layer.get_config()
    for kind, wanted in ARGUMENTS.items():
        for name, value in wanted.items() if isinstance(layer, kind) else ():
            if (given := config.get(name, value)) != value:
                raise UserError(
                    f"model: layer '{layer.name}' ({type(layer).__name__}) has {name}={given!r}, which is not "
                    f"supported; use {name}={value!r}"
                )


def _check_weights(layer: keras.layers.Layer) -> None:
    """Raise UserError if a weight of the layer is not float32."""
    for weight in layer.weights:
        if weight.dtype != "float32":
            raise UserError(
                f"model: layer '{layer.name}' ({type(layer).__name__}) has {weight.dtype} weights, which are not "
                "supported; build it with dtype='float32', not quantized"
            )
