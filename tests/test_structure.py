"""A model that the inference step does not compute is refused, by the name of the layer or the argument."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.layers import output
from keras_lstmgen.layers.attention import Attention
from keras_lstmgen.layers.ensemble import Ensemble
from keras_lstmgen.layers.lstm import LSTM
from keras_lstmgen.layers.pointer_generator import Pointer
from keras_lstmgen.models import builder, inference_step
from keras_lstmgen.utils.errors import UserError

B, T, E, H, V, M = 2, 6, 4, 5, 11, 3
Layer: TypeAlias = keras.layers.Layer


def stack(*between: Layer, first: Layer | None = None, last: Layer | None = None) -> keras.Sequential:
    """A model of these layers between an embedding and an output."""
    embedding = first or keras.layers.Embedding(V, E, name="embedding")
    parts = [keras.Input((None,), dtype="int32"), embedding, *between, last or keras.layers.Dense(V, name="output")]
    return keras.Sequential(parts)


def lstm(**options: Any) -> Layer:
    return keras.layers.LSTM(H, **{"return_sequences": True, "name": "lstm", **options})


def built_embedding() -> Layer:
    """An embedding that is no layer of the model."""
    embedding = keras.layers.Embedding(V, H)
    embedding.build()
    return embedding


LAYERS: dict[str, Callable[[], Layer]] = {
    "LayerNormalization": keras.layers.LayerNormalization,
    "BatchNormalization": keras.layers.BatchNormalization,
    "GRU": lambda: keras.layers.GRU(H, return_sequences=True),
    "SimpleRNN": lambda: keras.layers.SimpleRNN(H, return_sequences=True),
    "Bidirectional": lambda: keras.layers.Bidirectional(lstm()),
    "RNN": lambda: keras.layers.RNN(keras.layers.LSTMCell(H), return_sequences=True),
    "Conv1D": lambda: keras.layers.Conv1D(H, 3, padding="causal"),
    "Dense": lambda: keras.layers.Dense(H),
    "Activation": lambda: keras.layers.Activation("relu"),
    "Masking": keras.layers.Masking,
    "Attention": lambda: Attention(M),
    "MyLSTM": lambda: type("MyLSTM", (keras.layers.LSTM,), {})(H, return_sequences=True),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_that_the_step_does_not_compute_is_refused_by_its_name(kind: str) -> None:
    layer = LAYERS[kind]()
    with pytest.raises(UserError, match=rf"^model: layer '{layer.name}' \({kind}\) is not supported here; between"):
        inference_step.weights_of(stack(layer, lstm()))


ARGUMENTS: dict[str, Callable[[], keras.Sequential]] = {
    "'lstm' (LSTM) has activation='relu'": lambda: stack(lstm(activation="relu")),
    "'lstm' (LSTM) has recurrent_activation='hard_sigmoid'": lambda: stack(lstm(recurrent_activation="hard_sigmoid")),
    "'lstm' (LSTM) has use_bias=False": lambda: stack(lstm(use_bias=False)),
    "'lstm' (LSTM) has go_backwards=True": lambda: stack(lstm(go_backwards=True)),
    "'lstm' (LSTM) has float64 weights": lambda: stack(lstm(dtype="float64")),
    "'ours' (LSTM) has activation='relu'": lambda: stack(
        LSTM(H, return_sequences=True, activation="relu", name="ours")
    ),
    "'first' (Embedding) has mask_zero=True": lambda: stack(
        lstm(), first=keras.layers.Embedding(V, E, mask_zero=True, name="first")
    ),
    "'first' (Embedding) has lora_rank=2": lambda: stack(
        lstm(), first=keras.layers.Embedding(V, E, lora_rank=2, name="first")
    ),
    "'last' (Dense) has activation='softmax'": lambda: stack(
        lstm(), last=keras.layers.Dense(V, activation="softmax", name="last")
    ),
    "'last' (Dense) has use_bias=False": lambda: stack(
        lstm(), last=keras.layers.Dense(V, use_bias=False, name="last")
    ),
    "'last' (Output) has activation='relu'": lambda: stack(
        lstm(), last=output.Output(V, activation="relu", name="last")
    ),
    "'last' (Dense) has lora_rank=2": lambda: stack(lstm(), last=keras.layers.Dense(V, lora_rank=2, name="last")),
    "'last' (Softmax) is not supported": lambda: stack(lstm(), last=keras.layers.Softmax(name="last")),
    "'last' (Dense) is not supported here; there must be an LSTM layer before": lambda: stack(
        last=keras.layers.Dense(V, name="last")
    ),
    "'first' (EmbeddingBag)": lambda: stack(
        lstm(), first=type("EmbeddingBag", (keras.layers.Embedding,), {})(V, E, name="first")
    ),
    "'last' (TiedOutput) is not supported": lambda: stack(
        lstm(), last=output.TiedOutput(built_embedding(), name="last")
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", ARGUMENTS)
def test_an_argument_that_the_step_does_not_compute_is_refused_by_its_name(told: str) -> None:
    with pytest.raises(UserError) as error:
        inference_step.weights_of(ARGUMENTS[told]())
    assert str(error.value).startswith("model: layer ")
    assert told in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantized_model_is_refused() -> None:
    built = stack(lstm())
    built.quantize("int8")
    with pytest.raises(UserError, match=r"layer '(embedding|output)' .* has int8 weights"):
        inference_step.weights_of(built)


def test_a_layer_beside_an_ensemble_or_a_pointer_and_an_ensemble_of_ensembles_are_refused() -> None:
    member = stack(lstm())
    more = keras.layers.Softmax(name="more")
    for outer in (Ensemble([member]), Pointer(stack(lstm(), Attention(M)))):
        with pytest.raises(UserError, match=r"'more' \(Softmax\) .* must be the only layer of the model"):
            inference_step.weights_of(keras.Sequential([keras.Input((None,), dtype="int32"), outer, more]))
    with pytest.raises(UserError, match=r"'inner' \(Ensemble\) .* first layer must be an Embedding"):
        inference_step.weights_of(
            keras.Sequential([Ensemble([keras.Sequential([Ensemble([member], name="inner"), more])])])
        )


def test_another_kind_of_model_and_an_empty_one_are_refused() -> None:
    inputs = keras.Input((None,), dtype="int32")
    with pytest.raises(UserError, match=r"model: is a Functional; give a keras\.Sequential"):
        inference_step.weights_of(keras.Model(inputs, stack(lstm())(inputs)))
    with pytest.raises(UserError, match="model: has no layers"):
        inference_step.weights_of(keras.Sequential())


HARMLESS = {
    "dropout": 0.5, "recurrent_dropout": 0.25, "stateful": True, "unroll": False, "seed": 3, "unit_forget_bias": False,
    "kernel_initializer": "zeros", "kernel_regularizer": "l2", "recurrent_constraint": "max_norm",
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), HARMLESS.items())
def test_an_argument_of_training_alone_is_accepted_and_the_step_gives_the_model_s_logits(name: str, value: Any) -> None:
    between = (keras.layers.Dropout(0.5), lstm(**{name: value}), keras.layers.SpatialDropout1D(0.5))
    built = stack(*between) if name != "stateful" else stateful()
    ids = np.random.default_rng(0).integers(0, V, (B, T))
    weights, state = inference_step.weights_of(built), tf.zeros((B, 2 * H))
    whole = built(ids, training=False)
    for t in range(T):
        logits, state = inference_step.step(weights, ids[:, t], state)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-6)


def stateful() -> keras.Sequential:
    """A model that carries its state from batch to batch."""
    parts = [keras.layers.Embedding(V, E), lstm(stateful=True), keras.layers.Dense(V)]
    return keras.Sequential([keras.Input(batch_shape=(B, None), dtype="int32"), *parts])


@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True, "embedding_size": H}, {"attention": M}, {"members": 2}, {"attention": M, "copy": True},
     {"embedding_dropout": 0.5, "activation_regularization": 1.0, "weight_drop": 0.5, "layers": 3}],
)  # fmt: skip
@pytest.mark.parametrize("rows", [None, B])
def test_every_model_that_a_recipe_builds_is_accepted(options: dict[str, Any], rows: int | None) -> None:
    settings = recipe.Model(**{"embedding_size": E, "units": H, "layers": 1, "dropout": 0.1, **options})
    assert inference_step.weights_of(builder.build(settings, V, rows, T)).output_bias.shape == (V,)
