"""Read the weights of a user's own Keras model, and refuse each layer and argument that the inference step lacks."""

import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.layers import lstm
from keras_lstmgen.layers.output import Output
from keras_lstmgen.layers.regularization import ActivationRegularization, DroppedEmbedding, SharedDropout
from keras_lstmgen.utils.errors import UserError

SUPPORTED = "use only Embedding, then LSTM layers, dropout layers between them, and one Dense at the end"
REBUILD = "build the model again with {wanted}, and copy the weights with new.set_weights(old.get_weights())"
EMBEDDINGS = (keras.layers.Embedding, DroppedEmbedding)
CELLS = (keras.layers.LSTM, lstm.LSTM)
OUTPUTS = (keras.layers.Dense, Output)
ACTIVATIONS = (keras.layers.Activation, keras.layers.Softmax)
# These layers return their inputs outside of training.
IN_TRAINING = (
    keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.GaussianDropout, keras.layers.GaussianNoise,
    keras.layers.AlphaDropout, keras.layers.ActivityRegularization, SharedDropout, ActivationRegularization,
)  # fmt: skip
# Supported values of the arguments that change the results of a layer. The first value is the one to recommend.
ARGUMENTS: dict[type, dict[str, tuple[Any, ...]]] = {
    keras.layers.Embedding: {"mask_zero": (False,), "lora_rank": (None,)},
    keras.layers.LSTM: {
        "activation": ("tanh",), "recurrent_activation": ("sigmoid",), "recurrent_dropout": (0, 0.0),
        "go_backwards": (False,), "return_sequences": (True,),
    },
    keras.layers.Dense: {"activation": ("linear", "softmax"), "lora_rank": (None,)},
    keras.layers.Activation: {"activation": ("softmax", "linear")},
    keras.layers.Softmax: {"axis": (-1, 2)},
}  # fmt: skip
FLOATS = ("float16", "bfloat16", "float32", "float64")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Stack:
    """The layers of a user's model, in the order in which the model calls them.

    Attributes:
        layers: all layers except the input.
        embedding: the embedding layer.
        cells: the LSTM layers.
        output: the Dense layer.
        softmax: whether the model returns probabilities instead of logits.
    """

    layers: tuple[keras.layers.Layer, ...]
    embedding: keras.layers.Embedding
    cells: tuple[keras.layers.LSTM, ...]
    output: keras.layers.Dense
    softmax: bool

    @property
    def units(self) -> tuple[int, ...]:
        """The number of units of each LSTM layer."""
        return tuple(layer.units for layer in self.cells)


def read(model: keras.Model) -> Stack:
    """Return the layers of a user's model.

    Args:
        model: a ``keras.Sequential`` or a linear functional model with an embedding, one or more LSTM layers, and a
            Dense layer with or without softmax. Dropout layers and the like may be between them.

    Raises:
        UserError: if the model has other layers, other arguments, several inputs or outputs, no weights yet, or weights
            that are NaN or infinite. The message names the layer.
    """
    layers = _layers(model)
    for layer in layers:
        _check_kind(layer)
        _check_arguments(layer)
    embedding, *between, output = _order(layers)
    for layer in layers:
        _check_weights(layer)
    return Stack(tuple(layers), embedding, tuple(between), output, any(_is_softmax(layer) for layer in layers))


def _layers(model: Any) -> list[keras.layers.Layer]:
    """Return the layers of a model in the order in which it calls them, without its input."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        if not model.built or not model.layers:
            raise UserError(
                "model: has no weights yet; give it a keras.Input as its first layer, or call it once before the export"
            )
        return list(model.layers)
    if isinstance(model, keras.Model) and _is_functional(model):
        return _chain(model)
    if isinstance(model, keras.Model):
        raise UserError(
            f"model: {type(model).__name__} has a call method of its own, so the order of its layers is unknown; "
            "connect its layers in a functional keras.Model, as docs/own-model.md shows"
        )
    raise UserError(f"model: is a {type(model).__name__}; give a keras.Sequential or a functional keras.Model")


def _is_functional(model: keras.Model) -> bool:
    """Return whether a model is a functional model whose ``call`` is that of Keras."""
    return type(model).call.__module__.startswith("keras.") and hasattr(model, "outputs")


def _chain(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a functional model in which each layer has one input, the output of the layer before."""
    for name, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if len(tensors) != 1:
            raise UserError(f"model: has {len(tensors)} {name}, which is not supported; use one, the {_role(name)}")
    found: list[keras.layers.Layer] = []
    tensor = model.outputs[0]
    while True:
        layer, node, index = tensor._keras_history
        if isinstance(layer, keras.layers.InputLayer):
            return found[::-1]
        inputs = layer._inbound_nodes[node].input_tensors
        if index or len(inputs) != 1 or not isinstance(layer, keras.layers.Layer):
            raise _unknown(layer, "is part of a model whose layers are not one chain")
        found.append(layer)
        tensor = inputs[0]


def _role(name: str) -> str:
    """Return the description of the single input or output that is supported."""
    return "ids of shape [B, T]" if name == "inputs" else "logits or probabilities of shape [B, T, V]"


def _unknown(layer: Any, reason: str = "is not supported") -> UserError:
    """Return the exception for a layer that is not supported."""
    return UserError(f"model: layer '{layer.name}' ({type(layer).__name__}) {reason}; {SUPPORTED}")


def _unwrapped(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return the layer inside TimeDistributed, which does not change the result of Dense, or the layer itself."""
    return layer.layer if type(layer) is keras.layers.TimeDistributed else layer


def _check_kind(layer: keras.layers.Layer) -> None:
    """Raise UserError if the class of a layer is not supported."""
    layer = _unwrapped(layer)
    if type(layer) not in (*EMBEDDINGS, *CELLS, *OUTPUTS, *IN_TRAINING, *ACTIVATIONS):
        raise _unknown(layer)


def _check_arguments(layer: keras.layers.Layer) -> None:
    """Raise UserError if an argument of a layer has a value that the inference step cannot reproduce."""
    layer = _unwrapped(layer)
    with warnings.catch_warnings():  # Keras warns about the names of functions such as a lambda
        warnings.simplefilter("ignore")
        config = layer.get_config()
    for kind, arguments in ARGUMENTS.items():
        for name, supported in arguments.items() if isinstance(layer, kind) else ():
            if (given := config.get(name, supported[0])) not in supported:
                wanted = REBUILD.format(wanted=f"{name}={supported[0]!r}")
                raise _with_argument(layer, f"{name}={_shown(given)}", wanted)


def _shown(value: Any) -> str:
    """Return an argument for a message; an activation of the user is a dictionary, of which only the name is shown."""
    return repr(value.get("config", "custom") if isinstance(value, dict) else value)


def _with_argument(layer: keras.layers.Layer, given: str, advice: str) -> UserError:
    """Return the exception for a layer with an unsupported argument."""
    return UserError(
        f"model: layer '{layer.name}' ({type(layer).__name__}) has {given}, which is not supported; {advice}"
    )


def _order(layers: list[keras.layers.Layer]) -> list[Any]:
    """Return the embedding, the LSTM layers and the Dense layer; raise UserError if they are in another order."""
    parts = [layer for layer in map(_unwrapped, layers) if type(layer) not in IN_TRAINING]
    *parts, last = parts if parts and type(parts[-1]) in ACTIVATIONS else [*parts, None]
    for layer, kinds in zip(parts, (EMBEDDINGS, *(CELLS for _ in parts[2:]), OUTPUTS), strict=False):
        if type(layer) not in kinds:
            raise _unknown(layer, "is not in the supported order")
    if len(parts) < 3:
        raise UserError(f"model: has no {_missing(parts)} layer; {SUPPORTED}")
    if last and _is_softmax(last) and _is_softmax(parts[-1]):
        raise _unknown(last, "is a second softmax")
    return parts


def _missing(parts: list[keras.layers.Layer]) -> str:
    """Return the name of the first kind of layer that a model lacks."""
    kinds = {"Embedding": EMBEDDINGS, "LSTM": CELLS, "Dense": OUTPUTS}
    return next(name for name, kind in kinds.items() if not any(type(layer) in kind for layer in parts))


def _is_softmax(layer: keras.layers.Layer) -> bool:
    """Return whether a layer ends in a softmax."""
    layer = _unwrapped(layer)
    is_named = isinstance(layer, keras.layers.Dense | keras.layers.Activation)
    return type(layer) is keras.layers.Softmax or (is_named and layer.get_config().get("activation") == "softmax")


def _check_weights(layer: keras.layers.Layer) -> None:
    """Raise UserError if a weight of a layer is quantized, NaN or infinite."""
    for weight in layer.trainable_weights + layer.non_trainable_weights:
        if "seed" in weight.path or str(weight.dtype).startswith("uint"):
            continue  # the state of a random seed
        if weight.dtype not in FLOATS:
            raise _with_argument(layer, f"{weight.dtype} weights", "export the model before it is quantized")
        if not np.all(np.isfinite(_array(weight))):
            raise UserError(
                f"model: layer '{layer.name}' ({type(layer).__name__}) has weights that are NaN or infinite "
                f"({weight.name}); train again with a lower learning rate or with gradient clipping"
            )


def weights_of(stack: Stack, sources: tuple[int, ...]) -> list[Array]:
    """Return the weights of the inference model, in the order of ``model.set_weights``.

    Args:
        stack: the layers of the user's model.
        sources: for each of the V ids of the tokenizer, the id of the user's model whose embedding it has, or -1 for an
            added symbol. An added symbol has an embedding of zeros.

    Returns:
        The embedding [V, E], the kernel, recurrent kernel and bias of each LSTM layer, and the kernel [H, V] and the
        bias [V] of the output. The logits of the first ids are those of the user's model. All other logits are
        ``ABSENT``.
    """
    index = np.array(sources)
    embedding = np.where(index[:, np.newaxis] >= 0, _array(stack.embedding.embeddings)[index], np.float32(0))
    cells = [array for layer in stack.cells for array in _cell(layer)]
    kernel, bias = _array(stack.output.kernel), _bias(stack.output, stack.output.units)
    more = len(sources) - len(bias)
    return [embedding, *cells, np.pad(kernel, ((0, 0), (0, more))), np.pad(bias, (0, more), constant_values=ABSENT)]


ABSENT = -10_000.0  # logit of an id that the user's model lacks; its probability is 0, and float16 can represent it


def _cell(layer: keras.layers.LSTM) -> list[Array]:
    """Return the kernel, the recurrent kernel and the bias of an LSTM layer; zeros for a layer without bias."""
    return [_array(layer.cell.kernel), _array(layer.cell.recurrent_kernel), _bias(layer.cell, 4 * layer.units)]


def _bias(layer: Any, size: int) -> Array:
    """Return the bias of a layer; zeros if it has none."""
    return _array(layer.bias) if layer.use_bias else np.zeros(size, np.float32)


def _array(weight: keras.Variable) -> Array:
    """Return a weight as a float32 array."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(weight, "float32")), np.float32)


def _float32(weight: Any) -> Any:
    """Return an array of NumPy as float32; leave the integers of a random seed unchanged."""
    return weight if np.issubdtype(weight.dtype, np.integer) else weight.astype(np.float32)


def reference(stack: Stack, model: keras.Model) -> keras.Model:
    """Return a model of Keras whose results an export must reproduce.

    This is the user's model itself, if it computes in float32 for any shape and keeps no state between calls.
    Otherwise, it is a copy of its layers with these properties and the same weights.
    """
    is_plain = model.input_shape == (None, None) and all(_is_plain(layer) for layer in stack.layers)
    if is_plain:
        return model
    copies = [_copy(layer) for layer in stack.layers]
    copy = keras.Sequential([keras.Input((None,), dtype="int32"), *copies])
    for own, other in zip(stack.layers, copies, strict=True):
        other.set_weights([_float32(weight) for weight in own.get_weights()])
    return copy


def _is_plain(layer: keras.layers.Layer) -> bool:
    """Return whether a layer computes in float32 and keeps no state between calls."""
    precise = layer.compute_dtype == layer.variable_dtype == "float32"
    return precise and getattr(layer, "precision", "float32") == "float32" and not getattr(layer, "stateful", False)


def _copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a layer with the same arguments that computes in float32 and keeps no state between calls."""
    config = {**layer.get_config(), "dtype": "float32"}
    for name, value in {"stateful": False, "precision": "float32", "batch_input_shape": None}.items():
        if name in config:
            config[name] = value
    return type(layer).from_config(config)
