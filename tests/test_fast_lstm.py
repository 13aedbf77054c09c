"""The LSTM with its own kernel is Keras's LSTM: values, states, gradients."""

import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.layers import lstm, native_ops, output
from keras_lstmgen.system import cpu

E, H = 5, 7
SHAPES = [(4, 6), (6, 9), (1, 8), (3, 1), (1, 1)]  # B, T


def pair(B: int, T: int, E: int = E, H: int = H, **arguments: Any) -> tuple[keras.layers.LSTM, keras.layers.LSTM]:
    """Ours and Keras's, with the same random weights."""
    random = np.random.default_rng(B * T)
    weights = [random.normal(0, H**-0.5, shape) for shape in ((E, 4 * H), (H, 4 * H), (4 * H,))]
    both = []
    own = {key: arguments.pop(key) for key in ("precision", "weight_drop") if key in arguments}
    for kind, options in ((lstm.LSTM, arguments | own), (keras.layers.LSTM, arguments)):
        layer = kind(H, return_sequences=True, return_state=True, **options)
        layer.build((B, T, E))
        layer.set_weights(weights[: len(layer.weights)])  # two where there is no bias
        both.append(layer)
    return both[0], both[1]


def results(layer: keras.layers.LSTM, x: Any, state: Any, training: bool = False) -> list[Any]:
    """Outputs and states, and the gradients of an uneven sum of them by inputs, states and weights."""
    inputs = [x, *state]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y, h, c = layer(x, initial_state=state or None, training=training)
        total = tf.reduce_sum(y * tf.reshape(tf.cos(tf.cast(tf.range(tf.size(y)), tf.float32)), tf.shape(y)))
        total += tf.reduce_sum(h * 0.3) + tf.reduce_sum(c * c)
    variables = [weight.value for weight in layer.trainable_variables]
    return [y, h, c, *tape.gradient(total, inputs + variables)]


@pytest.mark.parametrize(("B", "T"), SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "initial state"])
def test_values_states_and_gradients_are_those_of_keras(B: int, T: int, given: bool) -> None:
    random = np.random.default_rng(1)
    x = tf.constant(random.normal(size=(B, T, E)), tf.float32)
    state = [tf.constant(random.normal(size=(B, H)), tf.float32) for _ in range(2)] if given else []
    for mine, theirs in zip(*(results(layer, x, state) for layer in pair(B, T)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_the_same_also_inside_a_compiled_function_of_open_shape() -> None:
    mine, theirs = pair(4, 6)
    x = tf.random.stateless_normal((4, 6, E), (1, 2))
    call = tf.function(lambda x: mine(x)[0], input_signature=[tf.TensorSpec([None, None, E])])
    np.testing.assert_allclose(call(x), theirs(x)[0], atol=1e-6)


def test_a_stateful_layer_carries_on_as_keras_s_does_in_training_too() -> None:
    """From the second window on its outputs, states and gradients are those of a state that is not zero."""
    mine, theirs = pair(4, 3, stateful=True)
    for seed in range(3):
        x = tf.random.stateless_normal((4, 3, E), (seed, 0))
        for value, wanted in zip(*(results(layer, x, [], training=True) for layer in (mine, theirs)), strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-5)
        for value, wanted in zip(mine.states, theirs.states, strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-5)
            assert np.any(wanted != 0)


@pytest.mark.parametrize(("B", "T"), [(8, 64), (19, 27), (6, 200)])
def test_gradients_over_more_rows_than_a_block_has_stay_those_of_keras(B: int, T: int) -> None:
    """The gradients by the weights are sums over T B rows, which the kernel adds up 512 (BLOCK) at a time."""
    E, H = 33, 40
    x = tf.random.stateless_normal((B, T, E), (B, T))
    mine, theirs = (results(layer, x, []) for layer in pair(B, T, E, H))
    for value, wanted in zip(mine, theirs, strict=True):
        assert np.max(np.abs(value - wanted)) <= 1e-5 * np.max(np.abs(wanted))


def test_its_dropout_is_one_mask_for_all_steps_and_zero_when_writing() -> None:
    mine, theirs = pair(4, 6, dropout=0.5, seed=3)
    x = tf.random.stateless_normal((4, 6, E), (1, 2))
    for expected, found in zip(results(theirs, x, [], training=True), results(mine, x, [], training=True), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(mine(x)[0], theirs(x)[0], atol=1e-6)


UNUSUAL = [{"recurrent_dropout": 0.1}, {"go_backwards": True}, {"activation": "relu"}, {"unroll": True}]


@pytest.mark.parametrize("unusual", [*UNUSUAL, {"use_bias": False}])
def test_arguments_that_the_kernel_does_not_know_go_to_keras(unusual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_ops, "lstm", lambda *_, **__: pytest.fail("the kernel was used"))
    mine, theirs = pair(2, 3, **unusual)
    x = tf.random.stateless_normal((2, 3, E), (1, 2))
    for value, wanted in zip(results(mine, x, []), results(theirs, x, []), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)


def test_the_last_output_alone_and_its_gradients_are_those_of_keras() -> None:
    x = tf.random.stateless_normal((4, 6, E), (1, 2))
    both = pair(4, 6)
    found = []
    for layer in both:
        layer.return_sequences = layer.return_state = False
        with tf.GradientTape() as tape:
            last = layer(x)
            loss = tf.reduce_sum(tf.sin(last))
        found.append([last, *tape.gradient(loss, [weight.value for weight in layer.trainable_variables])])
    assert found[0][0].shape == (4, H)
    for value, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_another_name_of_a_precision_is_refused_and_bfloat16_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (lstm.LSTM, output.Output):
        with pytest.raises(ValueError, match=r"precision: 'bf16' is not one of float32, bfloat16, auto"):
            kind(H, precision="bf16")
    monkeypatch.setattr(native_ops, "has_bfloat16", lambda: False)
    layer = pair(2, 3, precision="bfloat16")[0]  # which loads, to be used elsewhere
    with pytest.raises(ValueError, match="this processor does not multiply bfloat16; give 'auto' or 'float32'"):
        layer(tf.zeros((2, 3, E)))


def count_of_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows whenever the kernel is called or traced."""
    calls, kernel = list[int](), native_ops.lstm

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(len(calls))
        return kernel(*given, **options)

    monkeypatch.setattr(native_ops, "lstm", counted)
    return calls


def test_fit_traces_its_step_once_and_evaluate_and_predict_use_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_of_kernel(monkeypatch)
    model = keras.Sequential([keras.Input((None, E)), lstm.LSTM(H), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 6, E), np.float32), np.ones((8, 1), np.float32)
    model.fit(x, y, batch_size=4, epochs=1, validation_data=(x, y), verbose=0)
    traced = len(calls)
    assert traced >= 2  # the step of training and that of validation
    model.fit(x, y, batch_size=4, epochs=3, validation_data=(x, y), verbose=0)
    assert len(calls) == traced
    model.predict(x, verbose=0)
    assert len(calls) > traced


LOADED = """
import sys
import numpy as np
import tensorflow as tf

x = np.load(sys.argv[1] + "/x.npy")
for name in ("exported", "saved"):
    loaded = tf.saved_model.load(f"{sys.argv[1]}/{name}")
    (y,) = loaded.signatures["serving_default"](tf.constant(x)).values()
    np.save(f"{sys.argv[1]}/{name}.npy", y)
    if name == "exported":
        np.save(f"{sys.argv[1]}/serve.npy", loaded.serve(tf.constant(x)))
"""


@pytest.mark.slow
def test_a_model_with_it_is_exported_by_keras_and_runs_in_another_process(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, E)), lstm.LSTM(H), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(1).normal(size=(4, 6, E)).astype(np.float32)
    model.fit(x, np.ones((4, 1)), verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(model, tmp_path / "saved")
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", LOADED, str(tmp_path)], check=True)
    for name in ("exported", "saved", "serve"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), model.predict(x, verbose=0), atol=1e-6)


def test_it_is_keras_s_where_the_kernel_was_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_ops, "library", lambda: None)
    monkeypatch.setattr(native_ops, "lstm", lambda *_: pytest.fail("the kernel was used"))
    mine, theirs = pair(2, 3)
    x = tf.random.stateless_normal((2, 3, E), (1, 2))
    np.testing.assert_array_equal(mine(x)[0], theirs(x)[0])
    assert not native_ops.has_bfloat16()


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_any_number_of_threads_gives_the_same(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    B, T = 13, 6
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    mine, theirs = pair(B, T)
    expected = results(theirs, x, [])
    monkeypatch.setattr(cpu, "available", lambda: cores)
    monkeypatch.setattr(native_ops, "ROWS_PER_THREAD", 1)
    for wanted, found in zip(expected, results(mine, x, []), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "avx2", "avx512"])
@pytest.mark.parametrize(("B", "T", "E", "H"), [(1, 1, 3, 2), (5, 4, 33, 17), (13, 3, 65, 150)])
def test_every_kind_of_processor_computes_the_same(kind: str, B: int, T: int, E: int, H: int) -> None:
    if not native_ops.select_kernel(kind):
        pytest.skip(f"this processor has no {kind}")
    try:
        x = tf.random.stateless_normal((B, T, E), (1, 2))
        both = reversed(pair(B, T, E, H))
        for wanted, found in zip(*(results(layer, x, []) for layer in both), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    finally:
        native_ops.select_kernel("best")


@pytest.mark.parametrize("kind", ["avx512_bf16", "amx", "emulated amx"])
@pytest.mark.parametrize(("B", "T", "E", "H"), [(1, 1, 3, 2), (40, 4, 33, 17), (13, 3, 65, 150), (33, 5, 64, 128)])
def test_every_kind_that_multiplies_bfloat16_computes_the_same(kind: str, B: int, T: int, E: int, H: int) -> None:
    """The same roundings of operands: only the order of sums differs, and now and then by it how an h is rounded."""
    found = []
    for each in ("emulated", kind):
        if not native_ops.select_kernel(each):
            pytest.skip(f"this processor has no {each}")
        x = tf.random.stateless_normal((B, T, E), (1, 2))
        state = [tf.random.stateless_normal((B, H), (3, seed)) for seed in range(2)]
        found.append(results(pair(B, T, E, H, precision="bfloat16")[0], x, state))
        native_ops.select_kernel("best")
    for wanted, value in zip(*found, strict=True):
        assert np.linalg.norm(value - wanted) <= ROUNDING / 2 * np.linalg.norm(wanted)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("B", [3, 40, 100])
def test_in_bfloat16_any_number_of_threads_gives_the_same(B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, but for the gradient of the bias, which is added up thread by thread."""
    T, E, H = 4, 21, 150
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    mine = pair(B, T, E, H, precision="bfloat16")[0]
    monkeypatch.setattr(native_ops, "ROWS_PER_THREAD", 1)
    found = []
    for cores in (1, 2, 3, 7):
        monkeypatch.setattr(cpu, "available", lambda cores=cores: cores)
        found.append(results(mine, x, []))
    for others in found[1:]:
        for wanted, value in zip(found[0][:-1], others[:-1], strict=True):
            np.testing.assert_array_equal(value, wanted)
        np.testing.assert_allclose(others[-1], found[0][-1], atol=1e-4)


ROUNDING = 2.0**-9  # half a unit in the last of bfloat16's 8 places: the largest relative error of an operand


def step_of(x: Any, h: Any, c: Any, weights: Any) -> tuple[Any, Any]:
    """One step by the equations in float64: h and c, each [B, H]."""
    W, U, b = (np.asarray(each, np.float64) for each in weights)
    i, f, g, o = np.split(x @ W + h @ U + b, 4, axis=1)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c


def errors_of(x: Any, h: Any, c: Any, by_h: Any, by_c: Any, weights: Any) -> tuple[Any, Any]:
    """How wrong h and c [B, H] can be after a step that rounds its operands and begins with h and c that are wrong.

    A product of two rounded operands is wrong by at most 2u + u^2 of itself; sigmoid' <= 1/4, tanh' <= 1; a gate is at
    most 1.
    """
    W, U, _ = (np.abs(each) for each in weights)
    by_z = (2 * ROUNDING + ROUNDING**2) * (np.abs(x) @ W + (np.abs(h) + by_h) @ U) + by_h @ U + 1e-6
    i, f, g, o = np.split(by_z, 4, axis=1)
    by_c = np.abs(c) * f / 4 + by_c + i / 4 + g
    return o / 4 + by_c, by_c


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("T", [1, 2, 9])
def test_bfloat16_stays_within_the_rounding_of_its_operands(T: int) -> None:
    B = 6
    random = np.random.default_rng(1)
    x, h, c = (random.normal(size=size).astype(np.float32) for size in ((B, T, E), (B, H), (B, H)))
    mine = pair(B, T, precision="bfloat16")[0]
    found = results(mine, tf.constant(x), [tf.constant(h), tf.constant(c)])
    by_h, by_c = np.zeros((B, H)), np.zeros((B, H))
    for t in range(T):
        by_h, by_c = errors_of(x[:, t], h, c, by_h, by_c, mine.get_weights())
        h, c = step_of(x[:, t], h, c, mine.get_weights())
        assert np.all(np.abs(found[0][:, t] - h) <= by_h)
    assert np.all(np.abs(found[1] - h) <= by_h)
    assert np.all(np.abs(found[2] - c) <= by_c)
    assert np.any(np.abs(found[1] - h) > 1e-5)  # it did round


@pytest.mark.usefixtures("bfloat16")
def test_gradients_in_bfloat16_stay_near() -> None:
    """An estimate, no bound: three products one after the other, each wrong by 2u of its own norm.

    Where terms cancel, a norm could be less than its errors; with these numbers none does.
    """
    B, T = 6, 1
    random = np.random.default_rng(1)
    x, *state = (tf.constant(random.normal(size=size), tf.float32) for size in ((B, T, E), (B, H), (B, H)))
    expected, found = (results(layer, x, state) for layer in (pair(B, T)[1], pair(B, T, precision="bfloat16")[0]))
    for wanted, value in zip(expected[3:], found[3:], strict=True):
        assert np.linalg.norm(value - wanted) <= 3 * 2 * ROUNDING * np.linalg.norm(wanted)


@pytest.mark.usefixtures("bfloat16")
def test_auto_is_bfloat16_here_and_a_gradient_of_a_window_stays_near() -> None:
    """The estimate of above for T steps: each adds an error of 2u of the norm, none makes up for another."""
    if not native_ops.is_bfloat16_faster():
        pytest.skip("this processor multiplies floats faster")
    B, T = 6, 9
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    auto, named, theirs = (
        results(layer, x, []) for layer in (pair(B, T, precision="auto")[0], *pair(B, T, precision="bfloat16"))
    )
    for wanted, value, again in zip(theirs, named, auto, strict=True):
        np.testing.assert_array_equal(again, value)
        assert np.linalg.norm(value - wanted) <= T * 2 * ROUNDING * np.linalg.norm(wanted)


def test_weight_drop_is_one_mask_of_the_recurrent_kernel_and_none_when_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    B, T = 4, 6
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    mine, theirs = pair(B, T, weight_drop=0.4)
    np.testing.assert_allclose(mine(x)[0], theirs(x)[0], atol=1e-6)
    W, U, b = mine.get_weights()
    mask = (np.random.default_rng(3).random(U.shape) > 0.4) / 0.6
    monkeypatch.setattr(keras.random, "dropout", lambda weights, rate, **_: weights * mask if rate == 0.4 else None)
    theirs.set_weights([W, U * mask, b])
    expected, found = results(theirs, x, []), results(mine, x, [], training=True)
    expected[-2] *= mask  # a weight that was dropped has no gradient, another one scaled up
    for wanted, value in zip(expected, found, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    monkeypatch.setattr(native_ops, "library", lambda: None)  # what the parent does with the mask
    for wanted, value in zip(expected, results(mine, x, [], training=True), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_weight_drop_draws_anew_each_window() -> None:
    layer = pair(2, 3, weight_drop=0.5)[0]
    x = tf.random.stateless_normal((2, 3, E), (1, 2))
    assert not np.allclose(layer(x, training=True)[0], layer(x, training=True)[0])


def test_a_saved_model_with_it_loads_again_and_either_loads_the_other_s_weights(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, E)), lstm.LSTM(H, precision="auto", weight_drop=0.2)])
    model.save(tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras", safe_mode=True)
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    theirs = keras.Sequential([keras.Input((None, E)), keras.layers.LSTM(H)])
    theirs.set_weights(model.get_weights())
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    model.load_weights(tmp_path / "theirs.weights.h5")
    model.set_weights([2 * weight for weight in model.get_weights()])
    model.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    for value, wanted in zip(theirs.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.slow
def test_the_program_of_the_page_on_the_layer_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/layer.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    last = "print(len(model.history.history['val_loss']))"
    done = subprocess.run([sys.executable, "-c", program + last], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"
    assert {path.name for path in tmp_path.iterdir()} == {"sums.keras", "sums"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_an_output_gives_dense_s_logits_and_gradients(precision: str, tied: bool) -> None:
    B, T, V = 3, 4, 11
    embedding = keras.layers.Embedding(V, E)
    embedding.build((B, T))
    layer = output.TiedOutput(embedding, precision=precision) if tied else output.Output(V, precision=precision)
    layer.build((B, T, E))
    kernel_of = embedding.embeddings if tied else layer.kernel
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    weights = kernel_of.numpy().T if tied else kernel_of.numpy()
    logits = layer(x)
    bound = 0 if precision == "float32" else 4 * ROUNDING  # of both operands and of the sum
    np.testing.assert_allclose(logits, x.numpy() @ weights, atol=1e-5 + bound * np.max(np.abs(x) @ np.abs(weights)))
    assert logits.dtype == "float32"


def test_a_window_too_large_for_the_memory_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_ops, "library", lambda: type("Library", (), {"lstm_sizes": lambda *_: -1}))
    shapes = ((2, 3, E), (2, H), (2, H), (E, 4 * H), (H, 4 * H), (4 * H,))
    inputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(MemoryError, match="lstm_sizes"):
        native_ops._forward(False, *inputs)


SHORT_OF_MEMORY = """
import resource
from pathlib import Path
import numpy as np
from keras_lstmgen.layers import native_ops

B, T, E, H = 2, 3, 5, 1024  # packed, the weights take 16 MB
shapes = ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,))
inputs = [np.ones(shape, np.float32) for shape in shapes]
x, h, c, W, U, b = inputs
expected, _, _, *kept = native_ops._forward(False, *inputs)
out = [np.empty_like(value) for value in (expected, h, c)]
gradients = [np.empty_like(value) for value in inputs]
calls = [("lstm_forward", inputs, out), ("lstm_backward", [W, U, expected, h, c], gradients)]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), before[1]))
for name, given, found in calls:
    try:
        native_ops._run(name, False, (B, T, E, H), given, found, kept)
    except MemoryError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, before)
native_ops._run(*calls[0][:1], False, (B, T, E, H), inputs, out, kept)
np.testing.assert_array_equal(out[0], expected)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no limit of a process's addresses")
def test_without_memory_for_its_weights_the_code_says_so_and_works_again_later() -> None:
    command, settings = [sys.executable, "-c", SHORT_OF_MEMORY], {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=settings)
    assert done.stdout.splitlines() == [
        f"lstm_{way}: not enough memory for the window; use a smaller batch or window"
        for way in ("forward", "backward")
    ]


@pytest.fixture
def no_threads() -> Iterator[None]:
    """From now on every new thread of this process asks for a stack that no machine has."""
    library = ctypes.CDLL(None)
    before, huge = (ctypes.create_string_buffer(256) for _ in range(2))  # each more than a pthread_attr_t takes
    library.pthread_getattr_default_np(before)
    library.pthread_attr_init(huge)
    assert library.pthread_attr_setstacksize(huge, ctypes.c_size_t(1 << 46)) == 0
    assert library.pthread_setattr_default_np(huge) == 0
    yield
    library.pthread_setattr_default_np(before)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "pthread_setattr_default_np"), reason="a C library other than glibc")
@pytest.mark.parametrize("kind", ["best", "emulated amx"])
def test_threads_that_cannot_be_had_are_done_without(kind: str, request: pytest.FixtureRequest) -> None:
    """Those that came share out all there is, and wait for no others."""
    B, T, E, H = 40, 3, 5, 150
    dice, bfloat16 = np.random.default_rng(1), kind != "best"
    shapes = ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,))
    inputs = [dice.normal(size=shape).astype(np.float32) for shape in shapes]
    if not native_ops.select_kernel(kind):
        pytest.skip(f"this processor has no {kind}")
    try:
        expected, *_ = native_ops._forward(bfloat16, *inputs)
        request.getfixturevalue("no_threads")
        with pytest.raises(RuntimeError, match="thread"):
            threading.Thread(target=print).start()
        np.testing.assert_array_equal(native_ops._forward(bfloat16, *inputs)[0], expected)
    finally:
        native_ops.select_kernel("best")


def test_instructions_that_are_missing_are_not_told_as_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    code = native_ops.NO_INSTRUCTIONS
    monkeypatch.setattr(native_ops, "library", lambda: type("Library", (), {"lstm_sizes": lambda *_: code}))
    shapes = ((2, 3, E), (2, H), (2, H), (E, 4 * H), (H, 4 * H), (4 * H,))
    with pytest.raises(ValueError, match="does not multiply bfloat16"):
        native_ops._forward(True, *(np.zeros(shape, np.float32) for shape in shapes))


def test_states_of_another_batch_are_refused_before_they_are_read() -> None:
    B, T, E, H = 4, 3, 5, 7
    x, W, U, b = (np.zeros(shape, np.float32) for shape in ((B, T, E), (E, 4 * H), (H, 4 * H), (4 * H,)))
    state = np.zeros((1, H), np.float32)
    with pytest.raises(ValueError, match=r"h0 is float32 \(1, 7\); give float32 \(4, 7\)"):
        native_ops._forward(False, x, state, state, W, U, b)


def test_a_gradient_of_its_gradient_is_refused_and_not_taken_for_nothing() -> None:
    x = tf.ones((2, 3, E))
    layer = pair(2, 3)[0]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            total = tf.reduce_sum(layer(x)[0])
        penalty = tf.reduce_sum(inner.gradient(total, x) ** 2)
    with pytest.raises(NotImplementedError, match=r"use keras\.layers\.LSTM"):
        outer.gradient(penalty, x)


@pytest.mark.parametrize(("B", "T"), [(0, 3), (2, 0)])
def test_an_empty_window_hands_its_states_on_and_their_gradients_back(B: int, T: int) -> None:
    E, H = 5, 7
    x, W, U, b = (np.ones(shape, np.float32) for shape in ((B, T, E), (E, 4 * H), (H, 4 * H), (4 * H,)))
    h0, c0 = np.full((B, H), 2, np.float32), np.full((B, H), 3, np.float32)
    y, h, c, *kept = native_ops._forward(False, x, h0, c0, W, U, b)
    assert (y.shape, h.tolist(), c.tolist()) == ((B, T, H), h0.tolist(), c0.tolist())
    dx, dh, dc, dW, dU, db = native_ops._backward(False, x, W, U, y, h, c, *kept)
    assert (dx.shape, dh.tolist(), dc.tolist()) == (x.shape, h.tolist(), c.tolist())
    assert [value.any() for value in (dW, dU, db)] == [False] * 3
