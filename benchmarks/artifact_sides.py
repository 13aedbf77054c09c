"""Measure text generation with each exported artifact, by its graph ``generate`` and by its client, and with Keras."""

import importlib
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, texts
from export import contract as kit

FILES = {"tflite": "model.tflite", "tflite_int8": "model_int8.tflite", "onnx": "model.onnx", "saved_model": ""}
CLIENTS = {"tflite": "tflite", "tflite_int8": "tflite", "onnx": "onnx", "saved_model": "tf_serving"}
WINDOW = 64  # characters that the tutorial's way reads again for each one that it writes
TUTORIAL_LENGTH = 10  # of its texts: it takes its time


def generated(folder: str, name: str, B: int) -> Callable[[float], float]:
    """Texts by ``generate``, the whole loop in the graph."""
    from keras_lstmgen.exporters import registry

    exporter = registry.exporter(name)
    calls = {threads: exporter.open_artifact(Path(folder), threads=threads) for threads in texts.cores()}
    return texts.writes({threads: _generate(call, metadata(folder), B) for threads, call in calls.items()}, B)


def served(folder: str, B: int) -> Callable[[float], dict[str, float]]:
    """Texts by ``serving_default``, B a request, every core at work; peak memory is that of this process."""
    from keras_lstmgen.exporters import saved_model

    call, length = saved_model.open_artifact(Path(folder), threads=len(texts.cores())), texts.LENGTH
    neutral = vars(kit.Options())
    options = {name: np.full(B, value, np.int32 if name == "top_k" else np.float32) for name, value in neutral.items()}
    fixed = {"prompt": np.full(B, b"", object), "max_new_tokens": np.full(B, length, np.int32)}

    def answer(seconds: float) -> dict[str, float]:
        requests, began = 0, time.perf_counter()
        while requests < 2 or time.perf_counter() - began < seconds:
            call("serving_default", seed=np.arange(B) + B * requests, **fixed, **options)
            requests += 1
        each = (time.perf_counter() - began) / requests
        rates = {"characters_per_second": B * length / each, "seconds_per_request": each}
        return {**rates, "peak_bytes": measure.memory("VmHWM")}

    answer(0.0)
    return answer


def metadata(folder: str) -> kit.Metadata:
    """What the run says of its ids and sizes."""
    return kit.read_metadata((Path(folder) / "keras_lstmgen.json").read_bytes())


def feeds(about: kit.Metadata, B: int) -> dict[str, Any]:
    """What ``generate`` takes for ``B`` texts from the empty state at temperature 1, but the noise."""
    kinds = {"repetition_penalty": np.float32, "temperature": np.float32, "top_k": np.int32, "top_p": np.float32}
    neutral = vars(kit.Options())
    options = {name: np.full(B, neutral[name], kinds.get(name, np.float32)) for name in neutral}
    state = np.zeros((B, about.state_size), np.float32)
    return {"ids": np.full((B, 1), about.start_id, np.int32), "state": state, **options}


def _generate(call: Any, about: kit.Metadata, B: int) -> texts.Write:
    fixed, numbers = feeds(about, B), itertools.count()

    def write(length: int) -> Any:
        noise = np.stack([kit.noise(next(numbers), length) for _ in range(B)])
        return call("generate", noise=noise, **fixed)["tokens"]

    return write


def by_client(folder: str, name: str) -> Callable[[float], float]:
    """Texts by ``step`` and NumPy, one at a time, as the client in ``export/`` writes them."""
    from keras_lstmgen.exporters import registry

    module = importlib.import_module(f"export.{CLIENTS[name]}.generate")
    place = registry.exporter(name).path
    path = Path(folder) / place / FILES[name] if name == "onnx" else Path(folder) / place
    step, json_of_model, _ = module.load(path)
    about, numbers = kit.read_metadata(json_of_model), itertools.count()

    def write(length: int) -> Any:
        options, seed = kit.Options(), next(numbers)
        return list(kit.generate(step, [about.start_id], about, options, seed=seed, max_new_tokens=length))

    return texts.writes({module.THREADS if hasattr(module, "THREADS") else 1: write}, 1)


def _threaded(threads: int) -> int:
    """Give TensorFlow so many threads, of 0 one a core, before it does anything; how many these are."""
    import tensorflow as tf

    threads = threads or max(texts.cores())
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    return threads


def keras_step_by_step(folder: str, B: int, threads: int = 0) -> Callable[[float], float]:
    """Texts by Keras's own layers with their state, called once a character, compiled."""
    import tensorflow as tf

    threads = _threaded(threads)
    model = stateful(folder, B)
    read = tf.function(lambda ids: model(ids, training=False)[:, 0])
    start, never = metadata(folder).start_id, _never(folder)

    def write(length: int) -> Any:
        for layer in model.layers[1:-1]:
            layer.reset_states()
        ids, written = tf.fill((B, 1), start), []
        for _ in range(length):
            ids = tf.random.categorical(read(ids) + never, 1, tf.int32)
            written.append(ids)
        return np.concatenate(written, axis=1)

    return texts.writes({threads: write}, B)


def stateful(folder: str, B: int) -> Any:
    """The model of Keras's own layers, one step at a time: int32 [B, 1] in, logits [B, 1, V] out."""
    import keras

    stored = texts.weights(folder)
    (V, E), H = stored["embedding"].shape, stored["recurrent_0"].shape[0]
    lstms = [keras.layers.LSTM(H, return_sequences=True, stateful=True) for _ in range(texts.layers(list(stored)))]
    model = keras.Sequential(
        [keras.Input(batch_shape=(B, 1), dtype="int32"), keras.layers.Embedding(V, E), *lstms, keras.layers.Dense(V)]
    )
    gates = [stored[f"{kind}_{layer}"] for layer in range(len(lstms)) for kind in ("kernel", "recurrent", "bias")]
    model.set_weights([stored["embedding"], *gates, stored["output"], stored["output_bias"]])
    return model


def tutorial(folder: str, B: int, threads: int = 0) -> Callable[[float], float]:
    """Texts as tutorials write them: for each character ``model.predict`` reads a whole window again."""
    threads = _threaded(threads)
    from keras_lstmgen.models import run_directory

    opened = run_directory.load(Path(folder))
    dice, never = np.random.default_rng(0), _never(folder)

    def write(length: int) -> Any:
        written = np.full((B, WINDOW), opened.metadata.start_id, np.int32)
        for _ in range(length):
            logits = opened.model.predict(written[:, -WINDOW:], verbose=0)[:, -1] + never
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares = np.cumsum(powers / powers.sum(axis=1, keepdims=True), axis=1)
            ids = (shares > dice.random((B, 1)) * shares[:, -1:]).argmax(axis=1).astype(np.int32)
            written = np.concatenate([written, ids[:, np.newaxis]], axis=1)
        return written[:, WINDOW:]

    return texts.writes({threads: write}, B, TUTORIAL_LENGTH)


def _never(folder: str) -> Any:
    """Float32 [V] to add to logits: -inf for ids that are never written."""
    about = metadata(folder)
    return np.where(np.isin(np.arange(about.vocab_size), about.unsampled_ids), -np.inf, 0).astype(np.float32)


def make(
    folder: str, units: int, layers: int, formats: Sequence[str] = tuple(FILES)
) -> Callable[[float], dict[str, Any]]:
    """Make a run of Python's language reference, by character, untrained, with its artifacts and ``weights.npz``.

    Characters a second do not depend on what the weights have learnt. The answer to any question is what was made.
    """
    from keras_lstmgen.config import recipe
    from keras_lstmgen.data import token_cache
    from keras_lstmgen.models import builder, run_directory

    sizes = {"model.units": units, "model.layers": layers, "model.embedding_size": units, "model.dropout": 0.0}
    settings = recipe.override(recipe.Recipe(), sizes)
    encoded = token_cache.encode(settings, Path(folder) / ".encoded")
    about = run_directory.Metadata(
        vocab_size=encoded.tokenizer.vocab_size, state_size=2 * layers * units, start_id=encoded.start_id,
        end_id=encoded.end_id, prompt_start=False, unsampled_ids=encoded.unsampled_ids,
        recipe=recipe.to_tables(settings),
    )  # fmt: skip
    built = builder.build(settings.model, about.vocab_size)
    builder.start_at(built, np.bincount(encoded.train, minlength=about.vocab_size))
    run_directory.save_metadata(Path(folder), about)
    (Path(folder) / run_directory.TOKENIZER).write_bytes(encoded.tokenizer.model)
    built.save(Path(folder) / run_directory.MODEL)
    made = run_directory.Run(about, settings, encoded.tokenizer, built)
    stored = named_weights(made)
    np.savez(Path(folder) / "weights.npz", allow_pickle=False, **stored)
    facts = {
        "V": about.vocab_size,
        "read": numbers_read(made.weights),
        "bytes": {name: _exported(made, folder, name) for name in formats},
    }
    return lambda _: facts


def named_weights(made: Any) -> dict[str, Any]:
    """The weights of a run whose output is not tied, by the names that ``texts.weights`` knows."""
    held = made.weights
    gates = {
        f"{kind}_{layer}": getattr(cell, kind).numpy()
        for layer, cell in enumerate(held.cells)
        for kind in ("kernel", "recurrent", "bias")
    }
    rest = {"embedding": held.embedding, "output": held.output, "output_bias": held.output_bias}
    return gates | {name: weight.numpy() for name, weight in rest.items()}


def numbers_read(held: Any) -> int:
    """How many weights a step of an artifact multiplies with."""
    from keras_lstmgen.exporters import graphs

    folded = graphs.folded(held)
    matrices = [matrix for cell in folded.cells for matrix in (cell.kernel, cell.recurrent) if matrix is not None]
    return sum(int(np.prod(matrix.shape)) for matrix in [*matrices, folded.output])


def _exported(made: Any, folder: str, name: str) -> int:
    """Write one artifact; its size in bytes."""
    from keras_lstmgen.exporters import registry

    exporter = registry.exporter(name)
    exporter.write(made, Path(folder))
    return exporter.size(Path(folder))
