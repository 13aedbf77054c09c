"""Bad input to each public function of the Python API: a UserError with one line that names the problem."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_lstmgen as kl
from keras_lstmgen.models import run_directory

NEW = {"embedding_size": 5, "units": 12, "layers": 1, "batch_size": 3, "window": 17}
TEXT = "The quick brown fox jumps over the lazy dog. " * 9


@pytest.fixture(scope="module")
def lm(trained: Path) -> kl.TextGenerator:
    """A trained generator."""
    return kl.TextGenerator.load(trained)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file, an empty folder, a folder that is not a run, and a file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("notes")
    return tmp_path


def refused(call: Callable[[], Any], message: str) -> None:
    """Fail unless the call raises UserError with one line that matches a pattern."""
    with pytest.raises(kl.UserError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    assert re.search(message, str(caught.value)), str(caught.value)


def case(message: str, **arguments: Any) -> Any:
    """A row of a table: the arguments of a call, and a pattern of the message."""
    shown = " ".join(f"{name}={value!r:.25}" for name, value in arguments.items())
    return pytest.param(arguments, message, id=shown or message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        case("unknown recipe field 'unit'; the nearest is 'units'", unit=3),
        case("unknown recipe field 'model.unit'; the nearest is 'model.units'", **{"model.unit": 3}),
        case("model.units: is given twice", units=3, **{"model.units": 3}),
        case("model.units: 'many' is not a whole number", units="many"),
        case("model.units: None is not a whole number", units=None),
        case("model.units: 0 is out of range", units=0),
        case("model.units: True is not a whole number", units=True),
        case("model.dropout: nan is out of range", dropout=np.float32("nan")),
        case("tokenizer.type: 'letters' is not one of char, word, bpe, unigram", tokenizer="letters"),
        case("tokenizer.type: '' is not one of", tokenizer=""),
        case("model.tied needs model.embedding_size = model.units", tied=True, units=3, embedding_size=4),
        case("corpus.labels: 5 is not a list of strings", labels=5),
    ],
)
def test_fields(fields: dict[str, Any], message: str) -> None:
    refused(lambda: kl.TextGenerator(**fields), message)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "path: None is not a path"),
        (5, "path: 5 is not a path"),
        (b"run", "path: b'run' is not a path"),
        ("", "path: '' is not a path"),
        ("a\0b", "contains a NUL"),
        ("file", "file: is a file, not the folder of a run"),
        ("missing", "missing: there is no such folder; give the folder of a run"),
        ("empty", "empty: is not the folder of a run"),
        (Path("other"), "other: is not the folder of a run"),
    ],
    ids=repr,
)
def test_load(folder: Path, path: Any, message: str) -> None:
    assert folder == Path.cwd()
    refused(lambda: kl.TextGenerator.load(path), message)


def test_load_a_run_whose_files_are_damaged(copied: Path) -> None:
    model = run_directory.load(copied).model
    model.layers[-1].bias.assign(np.full(model.layers[-1].bias.shape, np.nan, np.float32))
    model.save(copied / "model.keras")
    refused(lambda: kl.TextGenerator.load(copied), "moved: weights .*: contain NaN or infinity")
    (copied / "model.keras").write_bytes(b"no model")
    refused(lambda: kl.TextGenerator.load(copied), "model.keras: does not contain the weights of this model")
    (copied / "tokenizer.model").write_bytes(b"")
    refused(lambda: kl.TextGenerator.load(copied), "tokenizer.model: not a ")
    (copied / "keras_lstmgen.json").unlink()
    refused(lambda: kl.TextGenerator.load(copied), "keras_lstmgen.json: cannot be read as JSON")


GENERATION = [
    case("there is no option 'temperatur'; the nearest is 'temperature'", temperatur=1.0),
    case("temperature: 'hot' is not a number", temperature="hot"),
    case("temperature: None is not a number", temperature=None),
    case("temperature: nan is out of range", temperature=float("nan")),
    case("temperature: -1.0 is out of range", temperature=-1),
    case("top_k: 1.5 is not a whole number", top_k=1.5),
    case("top_k: True is not a whole number", top_k=True),
    case("top_p: 0.0 is out of range", top_p=0),
    case("--max-new-tokens: 0 is out of range; give 1 or more", max_new_tokens=0),
    case("--max-new-tokens: 4294967296 is out of range", max_new_tokens=2**32),
    case("--seed: 18446744073709551616 is out of range", seed=2**64),
    case("seed: '7' is not a whole number", seed="7"),
    case("stop: 5 is not a list of strings", stop=5),
    case(r"stop: \[5\] is not a list of strings", stop=[5]),
    case("regex: 5 is not a string", regex=5),
    case("--regex", regex="("),
    case("--logit-bias", logit_bias=["unknown token=1"]),
    case("--no-repeat-ngram: -1 is out of range", no_repeat_ngram=-1),
    case("--presence-penalty: inf is out of range", presence_penalty=float("inf")),
    case("--beams: -1 is out of range", beams=-1),
    case("--top-k: has no effect in a beam search", beams=2, top_k=3),
    case("--length-penalty: applies to a beam search", length_penalty=0.5),
    case("--top-k has no effect here: it needs a --temperature above 0", temperature=0, top_k=3),
]


@pytest.mark.parametrize(("options", "message"), GENERATION)
def test_generate_and_stream(lm: kl.TextGenerator, options: dict[str, Any], message: str) -> None:
    refused(lambda: lm.generate("The ", **options), message)
    refused(lambda: lm.stream("The ", **options), message)


@pytest.mark.parametrize("prompt", [None, 5, b"The ", [5], ["The ", None], {"The "}, np.zeros(3)], ids=repr)
def test_prompts_of_a_wrong_type(lm: kl.TextGenerator, prompt: Any) -> None:
    refused(lambda: lm.generate(prompt), "prompt: .* is not a string or a list of strings")
    refused(lambda: lm.stream(prompt), "prompt: .* is not a string")


def test_prompts_and_counts_that_are_not_valid(lm: kl.TextGenerator) -> None:
    refused(lambda: lm.generate("half \ud800", max_new_tokens=3), "not valid Unicode")
    refused(lambda: lm.generate("The ", n=0), "--n: 0 is out of range")
    refused(lambda: lm.generate("The ", n="2"), "n: '2' is not a whole number")  # type: ignore[call-overload]
    refused(lambda: lm.generate("The ", n=3, beams=2), "--n: 3 is out of range; a search with --beams 2 finds no more")
    refused(lambda: lm.generate("The ", logprobs=-1), "--logprobs: -1 is out of range")
    refused(lambda: lm.stream("The ", logprobs=1), "logprobs: has no effect in stream")
    refused(lambda: lm.stream("The ", n=2), "n: has no effect in stream")  # type: ignore[call-arg]
    refused(lambda: lm.stream(["The "]), "prompt: list is not a string")  # type: ignore[arg-type]


def test_a_generator_that_is_not_trained(folder: Path) -> None:
    new = kl.TextGenerator(**NEW)
    calls: list[Callable[[], Any]] = [
        new.generate, new.stream, new.evaluate, lambda: new.save("out"), lambda: new.export("out"),
        lambda: new.tokenizer, lambda: new.model,
    ]  # fmt: skip
    for call in calls:
        refused(call, "the generator is not trained; call fit, or load a run with TextGenerator.load")
    assert not (folder / "out").exists()


TEXTS: list[tuple[Any, str]] = [
    (None, "texts: NoneType is not a string, a path, or an iterable of strings"),
    (5, "texts: int is not a string, a path, or an iterable of strings"),
    (b"text", "texts: bytes is not a string"),
    ({"a": "b"}, "texts: dict is not a string"),
    (["a", 5], r"texts\[1\]: int is not a string"),
    ([b"a"], r"texts\[0\]: bytes is not a string"),
    ("", "texts: is empty"),
    (" \n", "texts: is empty"),
    ([], "texts: is empty"),
    (iter([]), "texts: is empty"),
    ("a\0b", r"texts: '\\x00' at character 1 is not text"),
    (["a", "b\ud800"], r"texts\[1\]: '\\ud800' at character 1 is not text"),
    ("file", "texts: file is the name of a file; give it as a pathlib.Path"),
    (Path("missing.txt"), "missing.txt: no file, folder or glob match"),
    (Path("empty"), "empty: the folder contains no text file"),
]


@pytest.mark.parametrize(("texts", "message"), TEXTS, ids=lambda value: f"{value!r:.20}")
def test_fit_and_evaluate_on_texts(lm: kl.TextGenerator, folder: Path, texts: Any, message: str) -> None:
    assert folder == Path.cwd()
    refused(lambda: kl.TextGenerator(**NEW).fit(texts), message)
    if texts is not None:
        refused(lambda: lm.evaluate(texts if not isinstance(texts, type(iter([]))) else iter([])), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        case("corpus.validation_fraction: 2.0 is out of range; give a number from 0 to 0.9", validation_split=2),
        case("corpus.validation_fraction: 'x' is not a number", validation_split="x"),
        case("training.epochs: -2 is out of range", epochs=-2),
        case("training.epochs and training.minutes are both 0", epochs=0),
        case("training.epochs: 1.5 is not a whole number", epochs=1.5),
        case("callbacks: int is not a list of Keras callbacks", callbacks=5),
        case("callbacks: 5 is not an instance of keras.callbacks.Callback", callbacks=[5]),
        case("callbacks: <class .* is not an instance", callbacks=[keras.callbacks.Callback]),
        case("verbose: 2 is not 0", verbose=2),
        case("verbose: 'yes' is not 0", verbose="yes"),
        case("the training text has 1 tokens, but a window of 17 for each of 3 streams takes 52", texts="ab"),
    ],
)
def test_fit(arguments: dict[str, Any], message: str) -> None:
    refused(lambda: kl.TextGenerator(**NEW).fit(**{"texts": TEXT, **arguments}), message)


def test_fit_with_fields_that_contradict_the_texts(trained: Path) -> None:
    refused(lambda: kl.TextGenerator(documents="blocks").fit(["a", "b"]), "corpus.documents: has no effect on a list")
    refused(lambda: kl.TextGenerator(source="a.txt").fit("text"), "corpus.source: has no effect, because fit receives")
    refused(lambda: kl.TextGenerator(split_seed=3).fit(TEXT), "corpus.split_seed has no effect here")
    refused(lambda: kl.TextGenerator(documents="pairs").fit(TEXT), "line 1: a pair needs a source, a tab and a target")
    refused(lambda: kl.TextGenerator().fit(trained), "small: is a run, not a folder of texts")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        case("there is no option 'measure'; the nearest is 'measures'", measure=["bleu"]),
        case("evaluate.measures: 'none' is not one of", measures=["none"]),
        case("evaluate.measures: 'bleu' needs pairs", measures=["bleu"]),
        case("evaluate.beams has no effect here", beams=3),
        case("--samples: -1 is out of range", samples=-1),
        case("samples: '1' is not a whole number", samples="1"),
        case("--sample-tokens: 0 is out of range", sample_tokens=0),
        case("--sample-tokens has no effect here", sample_tokens=5),
        case("verbose: 3 is not 0", verbose=3),
    ],
)
def test_evaluate(lm: kl.TextGenerator, arguments: dict[str, Any], message: str) -> None:
    refused(lambda: lm.evaluate(TEXT, **arguments), message)


FOLDERS = [
    (None, "folder: None is not a path"),
    (5, "folder: 5 is not a path"),
    ("", "folder: '' is not a path"),
    ("file", "file: is a file, which is not replaced"),
    ("file/below", "below: cannot be created"),
    ("other", "other: is a folder with other files, which is not replaced"),
]


@pytest.mark.parametrize(("path", "message"), FOLDERS, ids=repr)
def test_save_and_export_to_a_folder(lm: kl.TextGenerator, folder: Path, path: Any, message: str) -> None:
    refused(lambda: lm.save(path), message)
    refused(lambda: lm.save(path, overwrite=True), message)
    refused(lambda: lm.export(path), message)
    assert (folder / "file").read_text() == "text"
    assert (folder / "other" / "notes.txt").read_text() == "notes"


def test_save_and_export_over_another_run(lm: kl.TextGenerator, trained_lines: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_lines, tmp_path / "run")
    for write in (lm.save, lm.export):
        refused(lambda write=write: write(tmp_path / "run"), "run: exists already; give another folder")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        case("there is no option 'format'; the nearest is 'formats'", format=["tflite"]),
        case("export.formats: 'coreml' is not one of", formats=["coreml"]),
        case("formats: is empty", formats=[]),
        case("export.formats: 5 is not a list of strings", formats=5),
        case("export.texts: 0 is out of range", texts=0),
        case("export.tokens: 'x' is not a whole number", tokens="x"),
        case("verbose: -1 is not 0", verbose=-1),
    ],
)
def test_export(lm: kl.TextGenerator, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    refused(lambda: lm.export(tmp_path / "out", **arguments), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        case("prompt: None is not a string", prompt=None),
        case("--prompt: is empty", prompt=""),
        case("layer: '1' is not a whole number", layer="1"),
        case("--layer: 3 is out of range; this model's layers are 1 to 2", layer=3),
        case("--cell: 12 is out of range", cell=12),
        case("folder: 5 is not a path", folder=5),
        case("texts: is empty", texts=[]),
    ],
)
def test_inspect(lm: kl.TextGenerator, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    refused(lambda: lm.inspect(**{"prompt": "The", "folder": tmp_path / "pictures", **arguments}), message)
    assert not (tmp_path / "pictures").exists()


def test_the_backend_and_the_settings_of_keras(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "dtype_policy", lambda: keras.DTypePolicy("mixed_bfloat16"))
    refused(lambda: kl.TextGenerator.load(trained), "the dtype policy is mixed_bfloat16; keras_lstmgen needs float32")
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    refused(lambda: kl.TextGenerator(**NEW).fit(TEXT), "KERAS_MAX_EPOCHS=1: would stop a training early")
