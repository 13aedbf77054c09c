"""``export_model`` exports the Keras model of a user, and refuses by name each part that it does not support."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any, TypeAlias

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_lstmgen as kl
from export import tokenizer as kit
from keras_lstmgen.cli import command_line
from keras_lstmgen.exporters import export_run, registry, string_signatures
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.layers.lstm import LSTM
from keras_lstmgen.models import keras_conversion, keras_vocabulary, run_directory
from keras_lstmgen.reporting import reporter
from keras_lstmgen.tokenizers import listed_vocabulary
from keras_lstmgen.tokenizers.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
B, T, E, H, V = 2, 7, 5, 6, 12
CHARACTERS = sorted("\n abcdefghij")
ids = np.random.default_rng(1).integers(V, size=(B, T), dtype=np.int32)
Layer: TypeAlias = keras.layers.Layer


def embedding(**options: Any) -> Layer:
    return keras.layers.Embedding(V, E, **{"embeddings_initializer": "normal", "name": "embedding", **options})


def lstm(units: int = H, **options: Any) -> Layer:
    return keras.layers.LSTM(units, **{"return_sequences": True, "bias_initializer": "normal", **options})


def dense(units: int = V, **options: Any) -> Layer:
    return keras.layers.Dense(units, **{"bias_initializer": "normal", "name": "output", **options})


def sequential(*between: Layer, first: Layer | None = None, last: Layer | None = None) -> keras.Sequential:
    """A model of these layers between an embedding and a Dense layer."""
    parts = [keras.Input((None,), dtype="int32"), first or embedding(), *(between or (lstm(),)), last or dense()]
    return keras.Sequential(parts)


def functional(**options: Any) -> keras.Model:
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Dropout(0.3)(embedding()(inputs))
    x, _, _ = lstm(return_state=True, **options)(x)
    return keras.Model(inputs, dense()(keras.layers.GaussianNoise(0.2)(LSTM(H + 3, return_sequences=True)(x))))


@pytest.fixture
def without_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the run folder of a model, but no artifacts."""
    monkeypatch.setattr(export_run, "export", lambda *_: {})


def exported(model: keras.Model, tmp_path: Path, vocabulary: Any = CHARACTERS) -> run_directory.Run:
    """The run that ``export_model`` writes for a model."""
    kl.export_model(model, vocabulary, tmp_path / "own", ["tflite"])
    return run_directory.load(tmp_path / "own")


# Models

MODELS: dict[str, Callable[[], keras.Model]] = {
    "functional, other units per layer": functional,
    "softmax": lambda: sequential(lstm(), lstm(), last=dense(activation="softmax")),
    "softmax as a layer": lambda: keras.Sequential([*sequential().layers, keras.layers.Softmax()]),
    "softmax as an activation": lambda: keras.Sequential([*sequential().layers, keras.layers.Activation("softmax")]),
    "without bias": lambda: sequential(lstm(use_bias=False), last=dense(use_bias=False)),
    "distributed over time": lambda: sequential(lstm(), last=keras.layers.TimeDistributed(dense())),
    "regularized": lambda: sequential(
        keras.layers.SpatialDropout1D(0.5), lstm(dropout=0.4), keras.layers.AlphaDropout(0.1),
        keras.layers.ActivityRegularization(0.1), first=embedding(embeddings_regularizer="l2"),
    ),
    "unrolled, fixed shape": lambda: keras.Sequential(
        [keras.Input((T,), batch_size=B), embedding(), lstm(unroll=True), dense()]
    ),
}  # fmt: skip


@pytest.mark.usefixtures("without_artifacts")
@pytest.mark.parametrize("name", MODELS)
def test_the_run_has_the_logits_of_the_model(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    expected = model.predict(ids, verbose=0)
    found = exported(model, tmp_path).model.predict(ids, verbose=0)[..., :V]
    np.testing.assert_allclose(tf.nn.softmax(found) if "softmax" in name else found, expected, atol=1e-5)


@pytest.mark.usefixtures("without_artifacts")
def test_a_stateful_model_keeps_its_state_and_is_exported_without_it(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None,), batch_size=B), embedding(), lstm(stateful=True), dense()])
    expected = model.predict(ids, batch_size=B, verbose=0)
    state = [part.numpy() for part in model.layers[1].states]
    found = exported(model, tmp_path).model.predict(ids, verbose=0)[..., :V]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal([part.numpy() for part in model.layers[1].states], state)


@pytest.mark.usefixtures("without_artifacts")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_a_model_in_another_precision_is_exported_in_float32(policy: str, tmp_path: Path) -> None:
    model = sequential(lstm(dtype=policy), first=embedding(dtype=policy), last=dense(dtype=policy))
    found = exported(model, tmp_path).model
    assert {weight.dtype for weight in found.weights} == {"float32"}
    for own, weight in zip(model.weights, found.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(own.numpy(), np.float32), weight.numpy()[tuple(map(slice, own.shape))])


@pytest.mark.usefixtures("without_artifacts")
def test_a_layer_of_this_package_in_bfloat16_is_exported_in_float32(tmp_path: Path) -> None:
    model = sequential(LSTM(H, return_sequences=True, precision="auto", stateful=False))
    found = exported(model, tmp_path).model.predict(ids, verbose=0)[..., :V]
    np.testing.assert_allclose(found, model.predict(ids, verbose=0), atol=0.02)


class Doubled(keras.Sequential):
    """A model whose ``call`` is not that of Keras."""

    def call(self, inputs: Any, **options: Any) -> Any:
        return 2 * super().call(inputs, **options)


class Subclass(keras.Model):
    """A model as in many tutorials."""

    def call(self, inputs: Any) -> Any:
        return inputs


def two_inputs() -> keras.Model:
    inputs = [keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")]
    return keras.Model(inputs, dense()(lstm()(embedding()(inputs[0]) + embedding(name="other")(inputs[1]))))


def branched() -> keras.Model:
    inputs = keras.Input((None,), dtype="int32")
    x = lstm()(embedding()(inputs))
    return keras.Model(inputs, dense()(keras.layers.Add(name="sum")([x, lstm()(x)])))


def two_outputs() -> keras.Model:
    inputs = keras.Input((None,), dtype="int32")
    x = lstm()(embedding()(inputs))
    return keras.Model(inputs, [dense()(x), x])


def renamed(layer: Layer) -> keras.Sequential:
    return sequential(layer, lstm())


REFUSED: dict[str, Callable[[], Any]] = {
    "layer 'gru' (GRU) is not supported": lambda: renamed(keras.layers.GRU(H, return_sequences=True, name="gru")),
    "layer 'both' (Bidirectional) is not supported": lambda: renamed(keras.layers.Bidirectional(lstm(), name="both")),
    "layer 'norm' (LayerNormalization) is not": lambda: renamed(keras.layers.LayerNormalization(name="norm")),
    "layer 'rnn' (SimpleRNN) is not supported": lambda: renamed(
        keras.layers.SimpleRNN(H, return_sequences=True, name="rnn")
    ),
    "layer 'mask' (Masking) is not supported": lambda: renamed(keras.layers.Masking(name="mask")),
    "layer 'inner' (Sequential) is not supported": lambda: renamed(keras.Sequential([lstm()], name="inner")),
    "layer 'MyLSTM' (MyLSTM) is not supported": lambda: renamed(
        type("MyLSTM", (keras.layers.LSTM,), {})(H, return_sequences=True, name="MyLSTM")
    ),
    "layer 'hidden' (Dense) is not in the supported order": lambda: renamed(keras.layers.Dense(H, name="hidden")),
    "layer 'early' (Activation) is not in the supported order": lambda: renamed(
        keras.layers.Activation("linear", name="early")
    ),
    "layer 'last' (Softmax) is a second softmax": lambda: sequential(
        lstm(), dense(activation="softmax"), last=keras.layers.Softmax(name="last")
    ),
    "layer 'lstm' (LSTM) has activation='relu'": lambda: sequential(lstm(activation="relu", name="lstm")),
    "(LSTM) has activation='custom'": lambda: sequential(lstm(activation=lambda x: x)),
    "has recurrent_activation='hard_sigmoid'": lambda: sequential(lstm(recurrent_activation="hard_sigmoid")),
    "has recurrent_dropout=0.2": lambda: sequential(lstm(recurrent_dropout=0.2)),
    "has go_backwards=True": lambda: sequential(lstm(go_backwards=True)),
    "has return_sequences=False": lambda: sequential(lstm(return_sequences=False)),
    "layer 'embedding' (Embedding) has mask_zero=True": lambda: sequential(first=embedding(mask_zero=True)),
    "layer 'output' (Dense) has activation='relu'": lambda: sequential(last=dense(activation="relu")),
    "has no LSTM layer": lambda: keras.Sequential([keras.Input((None,), dtype="int32"), embedding(), dense()]),
    "has no weights yet": lambda: keras.Sequential([embedding(), lstm(), dense()]),
    "has 2 inputs": two_inputs,
    "has 2 outputs": two_outputs,
    "layer 'sum' (Add) is part of a model whose layers are not one chain": branched,
    "Doubled has a call method of its own": lambda: Doubled(sequential().layers),
    "Subclass has a call method of its own": Subclass,
    "is a str; give a keras.Sequential": lambda: "model.keras",
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_a_model_that_is_not_supported_is_refused_by_name(message: str, tmp_path: Path) -> None:
    with pytest.raises(kl.UserError) as refused:
        kl.export_model(REFUSED[message](), CHARACTERS, tmp_path / "own")
    assert str(refused.value).startswith("model: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(6))
def test_weights_that_are_not_finite_are_refused_with_the_name_of_their_layer(place: int, value: float) -> None:
    model = sequential(lstm(name="lstm"))
    weight = model.weights[place]
    weight.assign(np.full(weight.shape, value))
    name = ["embedding", "lstm", "lstm", "lstm", "output", "output"][place]
    with pytest.raises(kl.UserError, match=rf"^model: layer '{name}' .* has weights that are NaN or infinite"):
        keras_conversion.read(model)


@pytest.mark.usefixtures("without_artifacts")
def test_a_model_whose_logits_differ_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(*arguments: Any) -> list[Any]:
        *others, bias = weights_of(*arguments)
        return [*others, bias + 0.01 * (bias > keras_conversion.ABSENT)]

    weights_of = keras_conversion.weights_of
    monkeypatch.setattr(keras_conversion, "weights_of", halved)
    with pytest.raises(kl.UserError, match=r"^model: its logits differ by 0\.01 from the logits of the exported"):
        kl.export_model(sequential(), CHARACTERS, tmp_path / "own")


# Vocabularies


def lookup(strings: list[str], **options: Any) -> Any:
    return keras.layers.StringLookup(vocabulary=strings, **{"mask_token": None, **options})


def test_the_ids_of_a_string_lookup_are_those_of_the_layer() -> None:
    layer = lookup(CHARACTERS)
    tokenizer = keras_vocabulary.read(layer).tokenizer
    text = "a big, bad cab\n\n??"
    expected = layer(tf.strings.unicode_split(text, "UTF-8")).numpy()
    np.testing.assert_array_equal(tokenizer.encode(text), expected)
    assert tokenizer.decode(expected) == "a big[UNK] bad cab\n\n[UNK][UNK]"


def test_the_ids_of_a_string_lookup_with_a_mask_and_another_unknown_token_are_those_of_the_layer() -> None:
    layer = lookup(CHARACTERS, mask_token="", oov_token="?!")
    listed = keras_vocabulary.read(layer)
    np.testing.assert_array_equal(listed.tokenizer.encode("cabx"), layer(tf.constant(list("cabx"))).numpy())
    assert listed.unsampled_ids[:2] == (0, 1)


@pytest.mark.parametrize("split", ["character", "whitespace"])
def test_the_ids_of_a_text_vectorization_are_those_of_the_layer(split: str) -> None:
    layer = keras.layers.TextVectorization(split=split, standardize=None)
    layer.adapt(["the cat sat on the mat", "a dog"])
    listed = keras_vocabulary.read(layer)
    encoded = listed.tokenizer.encode("the dog sat qq qq")
    np.testing.assert_array_equal(np.array(listed.sources)[encoded], layer(["the dog sat qq qq"])[0].numpy())
    unknown = "[UNK]" * (2 if split == "whitespace" else 5)
    assert listed.tokenizer.decode(encoded) == (
        "the dog sat" + unknown if split == "whitespace" else "the dog sat [UNK][UNK] [UNK][UNK]"
    )


class Listener(reporter.Reporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_text_vectorization_that_changes_texts_is_reported() -> None:
    layer = keras.layers.TextVectorization(split="whitespace", name="vectorize")
    layer.adapt(["The cat."])
    listener = Listener()
    with reporter.use(listener):
        keras_vocabulary.read(layer)
    assert listener.said == [
        "vectorize: an exported model does not change prompts; convert them to lower case and remove punctuation "
        "before you pass them"
    ]


UNSUPPORTED: dict[str, Callable[[], Any]] = {
    "layer 'a' has num_oov_indices=2": lambda: lookup(CHARACTERS, num_oov_indices=2, name="a"),
    "layer 'a' has output_mode='one_hot'": lambda: lookup(CHARACTERS, output_mode="one_hot", name="a"),
    "layer 'a' has split=None": lambda: keras.layers.TextVectorization(split=None, name="a"),
    "layer 'a' has split=function": lambda: keras.layers.TextVectorization(split=lambda text: text, name="a"),
    "layer 'a' has standardize=function": lambda: keras.layers.TextVectorization(
        split="character", standardize=lambda text: text, name="a"
    ),
    "layer 'a' has ngrams=": lambda: keras.layers.TextVectorization(split="whitespace", ngrams=2, name="a"),
    "is empty": list,
    "is empty; give at least one string besides": lambda: ["", "[UNK]"],
    "'a' has the ids 1 and 3; remove one": lambda: ["b", "a", "c", "a"],
    "contains several unknown symbols": lambda: ["[UNK]", "<unk>", "a"],
    "entry 1, 'a▁', contains '▁', which stands for a space": lambda: ["b", "a▁"],
    r"entry 0, '\x00', contains '\x00'": lambda: ["\0"],
    r"entry 1, 'a\nb', contains a newline before its end": lambda: ["a", "a\nb"],
    r"entry 0, '\ud83c', is not valid Unicode": lambda: ["\ud83c"],
    "entry 1 is 3, not a string": lambda: ["a", 3],
    "entry 0 is b'a', not a string": lambda: [b"a"],
    "is a dictionary; give a list of strings": lambda: {"a": 0},
    "is a str; give a keras_lstmgen.Tokenizer": lambda: "abc",
    "is a int; give a keras_lstmgen.Tokenizer": lambda: 3,
    "is a IntegerLookup; give": lambda: keras.layers.IntegerLookup(vocabulary=[1, 2]),
    "is the tokenizer of an exported model": lambda: listed_vocabulary.build(["a"]).tokenizer,
    "has 3 entries, but layer 'embedding' (Embedding) has input_dim=12": lambda: ["a", "b", "c"],
}  # fmt: skip


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_a_vocabulary_that_is_not_supported_is_refused_by_name(message: str, tmp_path: Path) -> None:
    with pytest.raises(kl.UserError) as refused:
        kl.export_model(sequential(), UNSUPPORTED[message](), tmp_path / "own")
    assert str(refused.value).startswith("vocabulary: ")
    assert message in str(refused.value)
    assert not (tmp_path / "own").exists()


def test_a_dense_layer_of_another_size_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(kl.UserError, match=r"has 12 entries, but layer 'output' \(Dense\) has units=13"):
        kl.export_model(sequential(last=dense(V + 1)), CHARACTERS, tmp_path / "own")


PIECE = st.text(st.characters(exclude_characters="▁\n\0", exclude_categories=["Cs"]), min_size=1, max_size=3)


@settings(max_examples=60)
@given(st.lists(PIECE, min_size=1, max_size=9, unique=True), st.lists(st.integers(0, 99), max_size=20), st.booleans())
def test_text_of_a_list_is_encoded_and_decoded_without_loss(
    strings: list[str], order: list[int], newline: bool
) -> None:
    strings = [*strings, *(["\n"] if newline and "\n" not in strings else []), " "]
    strings = [string for string in dict.fromkeys(strings) if string not in listed_vocabulary.UNKNOWN]
    listed = listed_vocabulary.build(strings)
    text = "".join(strings[number % len(strings)] for number in order)
    encoded = listed.tokenizer.encode(text).tolist()
    assert listed.tokenizer.decode(encoded) == "".join(strings[token] for token in encoded) == text
    client = kit.read(listed.tokenizer.model)
    assert kit.encode(client, text) == encoded
    assert kit.decode(client, encoded) == text
    if all(len(string) == 1 for string in strings):
        assert encoded == [strings.index(character) for character in text]


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(categories=["L"]), min_size=2, max_size=5), min_size=1, max_size=9, unique=True))
def test_words_are_joined_by_spaces(words: list[str]) -> None:
    listed = listed_vocabulary.build(["[UNK]", *words])
    tokenizer = listed.tokenizer
    encoded = tokenizer.encode(" ".join(words)).tolist()
    assert [listed.sources[token] for token in encoded] == list(range(1, len(words) + 1))
    assert tokenizer.decode(encoded) == " ".join(words)
    assert tokenizer.decode(range(1, len(words) + 1)) == " " + " ".join(words)
    assert kit.encode(kit.read(tokenizer.model), " ".join([*words, "??", "??"])) == [*encoded, 0, 0]


@pytest.mark.parametrize(
    "strings",
    [
        ["[UNK]", *CHARACTERS, ".", "\\", "月"],
        ["", "[UNK]", " ", "a", "ab", "ab.", "(", "\\d", "+*", "月é", "]^", "-#", "|", "b\n", "</s>"],
        ["[UNK]", "a", "ab", "b.", "月é", "</s>"],
    ],
)
def test_the_string_graph_encodes_as_keras_does(strings: list[str]) -> None:
    tokenizer = listed_vocabulary.build(strings).tokenizer
    graph = string_signatures.Strings(SimpleNamespace(tokenizer=tokenizer, metadata=None), None)  # type: ignore[arg-type]
    random = np.random.default_rng(5)
    signs = [*strings, " ", "\n", "x", "▁", "\0", "\N{GRINNING FACE}"]
    texts = ["".join(random.choice(signs, size)) for size in range(30)]
    encoded = graph.encode(tf.constant([text.encode() for text in texts])).to_list()
    assert encoded == [tokenizer.encode(text).tolist() for text in texts]
    client = kit.read(tokenizer.model)
    assert encoded == [kit.encode(client, text) for text in texts]


def test_text_outside_a_vocabulary_without_an_unknown_symbol_is_an_error() -> None:
    tokenizer = listed_vocabulary.build(CHARACTERS).tokenizer
    with pytest.raises(kl.UserError, match=r"^the vocabulary of this model does not contain 'z'; use only text"):
        tokenizer.encode("a zebra")


@pytest.mark.parametrize(
    ("strings", "start"), [(["a", " ", "\n"], "\n"), (["b", " ", "a"], " "), (["[UNK]", "b", "a"], "b")]
)
def test_a_text_without_a_prompt_begins_with_a_newline_or_a_space_or_the_first_string(
    strings: list[str], start: str
) -> None:
    assert listed_vocabulary.build(strings).start_id == strings.index(start)


@pytest.mark.parametrize("kind", ["char", "word", "bpe", "unigram"])
def test_a_tokenizer_is_trained_on_a_string_or_on_a_list(kind: str) -> None:
    text = "the cat sat on the mat, the dog sat on the log\n" * 9
    one, other = (Tokenizer.train(texts, type=kind, vocab_size=20) for texts in (text, [text]))
    assert one.model == other.model
    assert one.type == kind
    assert one.decode(one.encode(text)) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "texts: are empty"), (([],), "texts: are empty"), ((3,), r"texts: is \[3\]; give a string"),
        (([b"a"],), r"texts: is \[b'a'\]; give a string"), (("ab", "words"), "tokenizer.type: 'words' is not one of"),
        (("ab", "char", 2), "tokenizer.vocab_size = 2 leaves no room"),
    ],
)  # fmt: skip
def test_a_tokenizer_refuses_bad_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(kl.UserError, match=message):
        Tokenizer.train(*arguments)


# Arguments


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(kl.UserError, match=r"^export\.formats: 'tflight' is not one of saved_model, tflite, "):
        kl.export_model(sequential(), CHARACTERS, tmp_path / "own", ["tflight"])
    with pytest.raises(kl.UserError, match=r"^--format: is empty; give at least one"):
        kl.export_model(sequential(), CHARACTERS, tmp_path / "own", [])


def test_a_path_that_exists_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, kind in ((tmp_path / "file", "a file"), (tmp_path, "a folder with files")):
        with pytest.raises(kl.UserError, match=f"^{path}: is {kind}; give the path of a new folder"):
            kl.export_model(sequential(), CHARACTERS, path)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(kl.UserError, match=r"^path: is None; give the path of a new folder"):
        kl.export_model(sequential(), CHARACTERS, None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_artifacts")
def test_an_empty_folder_may_be_the_place(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    assert exported(sequential(), tmp_path).metadata.vocab_size == V + 2


@pytest.mark.usefixtures("without_artifacts")
def test_the_list_of_runs_says_that_the_loss_of_a_model_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(sequential(), tmp_path)
    assert command_line.main(["info", "--runs", str(tmp_path)]) == 0
    assert re.search(r"own +not measured", capsys.readouterr().out)


def test_a_format_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise export_run.ExportError(f"TFLite: logits differ by 1; {export_run.DISCARDED}", {})

    monkeypatch.setattr(export_run, "export", fail)
    with pytest.raises(kl.UserError, match=r"own: was not written; TFLite: logits differ by 1; leave out the formats"):
        kl.export_model(sequential(), CHARACTERS, str(tmp_path / "own"))
    assert list(tmp_path.iterdir()) == []


# Artifacts


def client(kind: str, artifact: Path, *options: str) -> str:
    """The text of a client that does not import this package."""
    command = [sys.executable, str(ROOT / "export" / kind / "generate.py"), str(artifact), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def logits(folder: Path, kind: str, V: int) -> Any:
    """The logits of the graph ``step`` of an artifact for ``ids``."""
    call, metadata = registry.exporter(kind).open_artifact(folder), run_directory.load_metadata(folder)
    state, found = np.zeros((B, metadata.state_size), np.float32), []
    for t in range(T):
        out = call("step", ids=ids[:, t] % V, state=state)
        state = out["next_state"]
        found.append(out["logits"][:, :V])
    return np.stack(found, axis=1)


def in_keras(folder: Path, prompt: str) -> str:
    """A text of a run in Keras."""
    return Generator(run_directory.load(folder)).generate(prompt, GenerationConfig(30), seeds=[3])[0].text


def test_an_artifact_has_the_logits_of_the_model_and_its_client_the_texts_of_keras(tmp_path: Path) -> None:
    model, folder = functional(), tmp_path / "own"
    results = kl.export_model(model, CHARACTERS, folder, ["tflite"], texts=12, tokens=9)
    assert results["tflite"].proof.identical == 12
    np.testing.assert_allclose(logits(folder, "tflite", V), model.predict(ids, verbose=0), atol=1e-4)
    own = in_keras(folder, "a bad cab")
    assert len(own) == 30
    assert set(own) <= set(CHARACTERS)
    options = ["--prompt", "a bad cab", "--max-new-tokens", "30", "--seed", "3"]
    assert client("tflite", folder / "tflite/model.tflite", *options).removesuffix("\n") == own


@pytest.mark.slow
@pytest.mark.parametrize("strings", [["[UNK]", *CHARACTERS], ["", "[UNK]", "the", "cat", "sat", "mat"]])
def test_every_format_has_the_logits_and_the_texts_of_keras(strings: list[str], tmp_path: Path) -> None:
    count, folder = len(strings), tmp_path / "own"
    model = keras.Sequential(
        [keras.Input((None,)), keras.layers.Embedding(count, E), lstm(41), dense(count, activation="softmax")]
    )
    formats = ["saved_model", "tflite", "tflite_float16", "tflite_int8", "onnx"]
    results = kl.export_model(model, strings, folder, formats, texts=24, tokens=20)
    prompt = "the cat qq" if "cat" in strings else "abc qq"
    words = ["--prompt", prompt, "--max-new-tokens", "30", "--seed", "3"]
    expected, own = np.log(model.predict(ids % count, verbose=0)), in_keras(folder, prompt)
    for name in ("saved_model", "tflite", "onnx"):
        assert results[name].proof.identical == 24
        np.testing.assert_allclose(tf.nn.log_softmax(logits(folder, name, count)), expected, atol=1e-4)
    assert client("onnx", folder / "onnx/model.onnx", *words).removesuffix("\n") == own
    assert client("tflite", folder / "tflite/model.tflite", *words).removesuffix("\n") == own
    served = registry.exporter("saved_model").open_artifact(folder)
    texts = np.array([prompt.encode()], object)
    options = sampling.rows([sampling.Options()])._asdict()
    answer = served(
        "serving_default", prompt=texts, seed=np.array([3]), max_new_tokens=np.array([30], np.int32), **options
    )
    assert answer["text"][0].decode() == own
    encoded = run_directory.load(folder).tokenizer.encode(prompt)
    np.testing.assert_array_equal(served("tokenize", text=texts)["ids"], [encoded])


# The page


PAGE = (ROOT / "docs/own-model.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n(.*?)(?=\n##)", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_an_example_of_the_page_runs_and_its_artifacts_generate_its_text(number: int, tmp_path: Path) -> None:
    code, behind = EXAMPLES[number]
    (tmp_path / "my_text.txt").write_text("".join(topics.values())[:30_000], encoding="utf-8")
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    done = run([sys.executable, "example.py"], tmp_path)
    assert len(done) > 50
    commands = re.findall(r"^    python (export/.*)$", behind, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        script, *words = shlex.split(command)
        assert run([sys.executable, str(ROOT / script), *words], tmp_path) == done


def run(command: list[str], folder: Path) -> str:
    """The standard output of a program that runs in a folder."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
