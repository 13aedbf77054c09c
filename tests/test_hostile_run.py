"""A run that somebody else has made works or is refused in one line; no code in it runs, nothing outside it changes.

Also ``tests/test_run_directory.py``: damage of each kind; a layer with code in it.
"""

import hashlib
import io
import json
import os
import pickle
import pydoc_data.topics
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keras_lstmgen.cli import command_line
from keras_lstmgen.cli.verbs import info
from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, stream_windows, token_cache
from keras_lstmgen.files import folders
from keras_lstmgen.models import builder, run_directory
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.training import checkpoint, input_pipeline, trainer
from keras_lstmgen.utils.errors import UserError
from tests.hostile import HEAVY, TEXTS, VALUES, damaged, refused_or

pytestmark = pytest.mark.slow

TINY = {
    "model.units": 7, "model.embedding_size": 4, "model.layers": 1, "training.batch_size": 3, "training.window": 17,
    "training.epochs": 2, "training.precision": "float32",
}  # fmt: skip
ARCHIVES = (run_directory.MODEL, run_directory.CHECKPOINT, run_directory.PREVIOUS)


class Made:
    """A tiny run, which no test changes, the model that trained it, and a folder for changed copies."""

    def __init__(self, parent: Path) -> None:
        text = parent / "prose.txt"
        text.write_text("".join(pydoc_data.topics.topics.values())[:1500], encoding="utf-8")
        self.settings = recipe.override(recipe.Recipe(), {"corpus.source": [str(text)], **TINY})
        self.run = trainer.train(self.settings, parent / "runs", "tiny").folder
        self.metadata = json.loads((self.run / run_directory.METADATA).read_text())
        data = input_pipeline.load(self.settings, parent / "runs")
        self.text = input_pipeline.digest(data.encoded)
        counts = np.bincount(data.encoded.train, minlength=data.vocab_size)
        self.model = trainer.compile_model(data.recipe, counts)
        self.copy = Path(shutil.copytree(self.run, parent / "copies" / "tiny"))
        self.members = {name: members(self.run / name) for name in ARCHIVES}

    def restored(self) -> Path:
        """The copy, its files as they were."""
        for name in (*ARCHIVES, run_directory.METADATA):
            shutil.copy(self.run / name, self.copy / name)
        return self.copy

    def resume(self) -> Any:
        """The progress that the copy would go on from."""
        return refused_or(lambda: checkpoint.load(self.copy, self.model, self.text)[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """The run, to be changed at will, with its cache beside it."""
    shutil.copytree(made.run.parent, tmp_path / "runs", dirs_exist_ok=True)
    return tmp_path / "runs/tiny"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def put(path: Path, parts: dict[str, bytes], **options: Any) -> None:
    """Write a ``.keras`` file."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert command_line.main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"keras-lstmgen: [^\n]+\n", err), err
    assert err[:-1].isprintable()
    return err


def contents(folder: Path) -> dict[str, str]:
    """The checksum of every file below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# Metadata


NAMES = st.sampled_from([*run_directory.Metadata.__dataclass_fields__, "colour"])


@given(st.one_of(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), st.binary(max_size=60), TEXTS))
@example(b"[" * 100_000)
@example({"source_end_id": 10**6})
def test_any_metadata_is_that_of_the_run_or_refused(made: Made, changes: Any) -> None:
    folder = made.restored()
    text = json.dumps(made.metadata | changes) if isinstance(changes, dict) else changes
    (folder / run_directory.METADATA).write_bytes(
        text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    )
    refused_or(lambda: run_directory.load(folder).prompt_ids("The "))


@HEAVY
@given(damaged(b'{"artifacts": {"onnx": {"path": "onnx", "bytes": 9, "identical": 1, "tried": 2}}}'), VALUES, VALUES)
@example(b"{}", [], {"validation": 5})
@example(b'{"artifacts": []}', {}, {})
@example(b'{"artifacts": {"a": {"path": "metrics.json"}}}', {}, {})
@example(b"[" * 100_000, {}, {"validation": {"\x1b[2J\ud800": 1.0}})
def test_info_tells_of_any_run_or_refuses(made: Made, exported: bytes, metrics: Any, measured: Any) -> None:
    folder = made.restored()
    (folder / run_directory.METADATA).write_text(json.dumps(made.metadata | {"metrics": measured}))
    (folder / "export.json").write_bytes(exported)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert command_line.main(["info", str(folder)]) in (0, 2)
    assert len(info._summary(folder)) == 4


@pytest.mark.parametrize("units", [65_536, "auto"])
def test_a_recipe_that_asks_for_another_model_than_is_there_builds_none(made: Made, copied: Path, units: Any) -> None:
    """Not one of 68 GB."""
    values = {"units": units, "layers": 64 if units != "auto" else 1}
    metadata = json.loads(json.dumps(made.metadata))
    metadata["recipe"]["model"] |= values
    metadata["state_size"] = 2 * 64 * 65_536 if units != "auto" else -2
    (copied / run_directory.METADATA).write_text(json.dumps(metadata))
    with pytest.raises(
        UserError, match=r"contains 4,056 weights, but .* has 2,181,881,529,870;|does not contain all sizes"
    ):
        run_directory.load(copied)


def test_a_recipe_for_a_model_beyond_all_memory_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = ["--model.units", "65536", "--model.layers", "64"]
    said = refused(capsys, "train", *made.settings.corpus.source, *large, "--runs", tmp_path)
    assert re.search(
        r"the model has 2,18\d,\d{3},\d{3},\d{3} parameters, .* GB that this process may use; lower model\.units", said
    )


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("E", "L", "attention", "tied"), [(3, 1, 0, False), (3, 2, 5, False), (7, 3, 0, True)])
def test_the_size_of_a_model_is_known_before_it_is_built(
    E: int, L: int, attention: int, tied: bool, members: int
) -> None:
    settings = recipe.Model(E, 7, L, dropout=0.1, attention=attention, tied=tied, members=members)
    assert builder.parameters(settings, 11) == builder.build(settings, 11).count_params()


# Weights


@HEAVY
@given(st.sampled_from(ARCHIVES), st.data())
def test_any_bytes_are_a_keras_file_or_refused(made: Made, name: str, data: st.DataObject) -> None:
    folder = made.restored()
    (folder / name).write_bytes(data.draw(damaged((made.run / name).read_bytes())))
    refused_or(
        lambda: run_directory.load_model(folder / run_directory.MODEL, made.settings, made.metadata["vocab_size"])
    )
    made.resume()


@HEAVY
@given(st.sampled_from(ARCHIVES), st.data())
def test_any_members_of_a_keras_file_are_read_or_refused(made: Made, name: str, data: st.DataObject) -> None:
    """The checksums are right here: the bytes were changed before they were put in."""
    folder, parts = made.restored(), dict(made.members[name])
    part = data.draw(st.sampled_from([part for part in sorted(parts) if part != "model.weights.h5"]))
    if data.draw(st.booleans()):
        parts[part] = data.draw(damaged(parts[part]))
    else:
        del parts[part]
    put(folder / name, parts)
    refused_or(
        lambda: run_directory.load_model(folder / run_directory.MODEL, made.settings, made.metadata["vocab_size"])
    )
    made.resume()


PROGRESS = st.dictionaries(st.sampled_from([*checkpoint.Progress.__dataclass_fields__, "colour"]), VALUES, max_size=3)
ROWS = st.lists(st.dictionaries(st.sampled_from([*checkpoint.HISTORY_KEYS, "colour"]), VALUES, max_size=5), max_size=2)


@given(PROGRESS, st.one_of(st.none(), ROWS))
@example({"setbacks": 10**9}, None)
@example({"seconds": 0.0}, None)
@example({"measured": []}, None)
def test_any_progress_is_that_of_a_training_or_refused(made: Made, changes: dict[str, Any], rows: Any) -> None:
    folder = made.restored()
    for name in (run_directory.CHECKPOINT, run_directory.PREVIOUS):
        parts = dict(made.members[name])
        progress = json.loads(parts["progress.json"]) | changes | ({} if rows is None else {"history": rows})
        put(folder / name, parts | {"progress.json": json.dumps(progress).encode()})
    if (found := made.resume()) is not None:
        json.dumps(asdict(found))
        assert found.windows >= 0
        assert found.seconds >= 0
        assert 2.0**found.setbacks < 2.0**64
        assert all(abs(row["val_loss"]) < 700 for row in found.history)


class Touch:
    """What touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_among_the_states_is_never_unpickled(made: Made, tmp_path: Path) -> None:
    mark, states = tmp_path / "executed", io.BytesIO()
    np.savez(states, np.array([Touch(mark)], dtype=object))
    folder = made.restored()
    for name in (run_directory.CHECKPOINT, run_directory.PREVIOUS):
        put(folder / name, made.members[name] | {"carried.npz": states.getvalue()})
    with pytest.raises(UserError, match=r"allow_pickle=False"):
        checkpoint.load(folder, made.model, made.text)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Touch(mark)))  # what was waiting there
    assert mark.exists()


CLASSES: dict[str, dict[str, Any]] = {
    "a function": {"module": "os", "class_name": "system", "config": "touch MARK", "registered_name": None},
    "a class": {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", "MARK"]}},
    "a package": {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "eval"},
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_that_a_keras_file_names_is_never_imported(made: Made, tmp_path: Path, name: str) -> None:
    folder, mark = made.restored(), tmp_path / "executed"
    hostile = json.loads(json.dumps(CLASSES[name]).replace("MARK", str(mark)))
    for archive in ARCHIVES:
        config = json.loads(made.members[archive]["config.json"])
        config["config"]["layers"].insert(1, hostile)
        config["compile_config"] = {"optimizer": hostile, "loss": hostile}
        put(folder / archive, made.members[archive] | {"config.json": json.dumps(config).encode()})
    before, after = run_directory.load(made.run).model.get_weights(), run_directory.load(folder).model.get_weights()
    assert all((one == other).all() for one, other in zip(before, after, strict=True))
    assert made.resume() is not None
    assert not mark.exists()


# Bombs, and links inside the file of numbers


def weights(made: Made, change: Callable[[h5py.File], None]) -> dict[str, bytes]:
    """The members of the weights' file after a change of its numbers."""
    parts, content = dict(made.members[run_directory.MODEL]), io.BytesIO()
    content.write(parts["model.weights.h5"])
    with h5py.File(content, "r+") as file:
        change(file)
    return parts | {"model.weights.h5": content.getvalue()}


def first(file: h5py.File) -> tuple[h5py.Group, h5py.Dataset]:
    """The embedding's numbers, and where they hang."""
    group = file["layers/embedding/vars"]
    return group, group["0"]


def packed(file: h5py.File) -> None:
    group, numbers = first(file)
    shape = numbers.shape
    del group["0"]
    group.create_dataset("0", shape, "f4", chunks=True, compression="gzip")


def of_nothing(file: h5py.File) -> None:
    group, _ = first(file)
    del group["0"]
    group.create_dataset("0", (10**6, 10**5), "f4")  # 400 GB of zeros, none of which is stored


def elsewhere(file: h5py.File) -> None:
    group, numbers = first(file)
    size = numbers.nbytes
    del group["0"]
    group.create_dataset("0", (size // 4,), "f4", external=[("/etc/passwd", 0, size)])


def linked(file: h5py.File) -> None:
    group, _ = first(file)
    del group["0"]
    group["0"] = h5py.ExternalLink("/etc/passwd", "/")


def virtual(file: h5py.File) -> None:
    group, numbers = first(file)
    layout = h5py.VirtualLayout(numbers.shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", numbers.shape)
    del group["0"]
    group.create_virtual_dataset("0", layout)


@pytest.mark.parametrize("change", [packed, of_nothing, elsewhere, linked, virtual])
def test_numbers_that_do_not_lie_in_the_file_as_they_are_are_refused(
    made: Made, change: Callable[[h5py.File], None]
) -> None:
    folder = made.restored()
    put(folder / run_directory.MODEL, weights(made, change))
    tracemalloc.start()
    with pytest.raises(
        UserError, match=r"model\.keras: (does not contain the weights of this model|contains [\d,]+ weights, but)"
    ):
        run_directory.load(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("name", ["model.weights.h5", "progress.json", "carried.npz", "another"])
def test_a_bomb_of_zip_is_refused_before_it_is_unpacked(made: Made, name: str) -> None:
    folder = made.restored()
    bomb = bytes(60_000_000)
    for archive in ARCHIVES:
        put(folder / archive, made.members[archive] | {name: bomb}, compression=zipfile.ZIP_DEFLATED)
        assert (folder / archive).stat().st_size < 200_000
    tracemalloc.start()
    with pytest.raises(
        UserError, match=r"model\.keras: does not contain the weights of this model \(.* is compressed; this package"
    ):
        run_directory.load(folder)
    with pytest.raises(UserError, match=r"checkpoint\.keras: is damaged \(.* is compressed; this package"):
        checkpoint.load(folder, made.model, made.text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_bomb_among_the_states_is_refused_before_it_is_unpacked(made: Made) -> None:
    folder, states = made.restored(), io.BytesIO()
    np.savez_compressed(states, np.zeros(15_000_000, np.float32))
    for name in (run_directory.CHECKPOINT, run_directory.PREVIOUS):
        put(folder / name, made.members[name] | {"carried.npz": states.getvalue()})
    with pytest.raises(UserError, match=r"arr_0\.npy is compressed"):
        checkpoint.load(folder, made.model, made.text)


def test_a_bit_that_turned_in_the_weights_is_noticed(made: Made) -> None:
    """Wherever in them it is: the numbers alone would not tell."""
    folder, data = made.restored(), (made.run / run_directory.MODEL).read_bytes()
    with zipfile.ZipFile(made.run / run_directory.MODEL) as archive:
        member = archive.getinfo("model.weights.h5")
    start, size = member.header_offset + 60, member.file_size
    for place in range(start, start + size - 60, size // 23):
        (folder / run_directory.MODEL).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(UserError, match=r"model\.keras: does not contain the weights of this model"):
            run_directory.load(folder)


# The cache beside the runs


@HEAVY
@given(st.dictionaries(st.sampled_from(["dtype", "counts", "start_id", "unsampled_ids", "sha256"]), VALUES, max_size=3))
@example({"dtype": "O"})
@example({"sha256": {}})
def test_a_cache_that_says_something_else_of_its_ids_is_none(made: Made, changes: dict[str, Any]) -> None:
    (whole,) = (made.run.parent / ".encoded").glob("*/encoding.json")
    cache = made.copy.parent / ".encoded"
    shutil.copytree(whole.parent, cache, dirs_exist_ok=True)
    (cache / whole.name).write_text(json.dumps(json.loads(whole.read_text()) | changes))
    found = token_cache._load(cache)
    if changes.keys() & {"dtype", "sha256"}:
        assert found is None
    if found is not None:
        np.testing.assert_array_equal(found.train, np.fromfile(whole.with_name("train.ids"), "<u2"))


# A prepared corpus


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of documents, in two shards a side, as ``prepare`` writes it; no test changes it."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "lines.txt").write_text("".join(pydoc_data.topics.topics.values())[:3_000], encoding="utf-8")
    settings = recipe.override(recipe.Recipe(), {"corpus.source": [str(folder / "lines.txt")], **LINES})
    found = token_cache.encode(settings, folder / "cache")
    (folder / "ids").mkdir()
    (folder / "ids/tokenizer.model").write_bytes(found.tokenizer.model)
    parts = {split: cut(folder / "ids", split, getattr(found, split)) for split in token_cache.SPLITS}
    values = {"dtype": "<u2", "counts": found.counts, "start_id": found.start_id, "shards": parts}
    values |= {"unsampled_ids": list(found.unsampled_ids), "sha256": token_cache.sha256(folder / "ids/tokenizer.model")}
    (folder / "ids" / folders.MANIFEST).write_text(json.dumps(prepared_corpus.manifest(settings, values)))
    return folder / "ids"


LINES = {"corpus.documents": "lines", "corpus.validation_fraction": 0.3}
PLACES = st.sampled_from(
    [*prepared_corpus.TYPES, "format_version", "colour"]
    + [f"shards.train.1.{key}" for key in ("file", "tokens", "sha256", "colour")]
    + [f"counts.validation.{key}" for key in (*token_cache.COUNTS, "colour")]
    + ["shards.train", "shards.validation", "shards.test", "counts.train", "corpus.documents", "tokenizer.type"]
)


def cut(folder: Path, split: str, ids: Any) -> list[dict[str, Any]]:
    """Write ids as two shards, cut before a document, and say what is in them."""
    half = int(np.flatnonzero(ids == tokenizer.START)[2])
    return [written(folder / f"{split}-0000{n}.ids", part) for n, part in enumerate((ids[:half], ids[half:]))]


def written(path: Path, ids: Any) -> dict[str, Any]:
    ids.astype("<u2").tofile(path)
    return {"file": path.name, "tokens": len(ids), "sha256": token_cache.sha256(path)}


def changed(about: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
    """A manifest with other values at some places, where they still are: ``shards.train.1.file``."""
    about = json.loads(json.dumps(about))
    for place, value in places.items():
        *path, last = place.split(".")
        part: Any = about
        for key in path:
            within = dict(enumerate(part)) if isinstance(part, list) else part
            part = within.get(int(key) if key.isdigit() else key) if isinstance(within, dict) else None
        if isinstance(part, dict):
            part[last] = value
    return about


def trained_on(folder: Path) -> Any:
    """What a training reads before its first update, which everything that it divides by and counts is asked of."""
    settings = recipe.override(recipe.Recipe(), {"corpus.source": [str(folder)], **TINY})
    data = input_pipeline.load(settings, folder.parent / "runs")
    found = data.encoded
    V = found.tokenizer.vocab_size
    assert stream_windows.counts(found.train, V).shape == stream_windows.counts(found.validation, V).shape == (V,)
    assert 0 <= found.start_id < V > len(found.unsampled_ids)
    assert all(ratio > 0 for ratio in data.tokens_per_character.values())
    assert data.scored_tokens > 0
    assert data.counts("validation")["tokens"] > 0
    return found


@HEAVY
@given(st.dictionaries(PLACES, VALUES, min_size=1, max_size=3))
@example({})
@example({"start_id": 10**6})
@example({"unsampled_ids": ["x"]})
@example({"unsampled_ids": [[]]})
@example({"shards.train.1.tokens": 2**70})
@example({"shards.train.1.tokens": -5})
@example({"dtype": "zz"})
@example({"dtype": "<i4"})
@example({"counts": {}})
@example({"counts.validation.tokens": "9"})
@example({"counts.validation.characters": 0})
@example({"shards.train": []})
@example({"shards.train.1.file": "../lines.txt"})
@example({"shards.train.1.file": "train-00000.ids"})
@example({"corpus.documents": "pairs"})
@example({"corpus": {}})
def test_any_manifest_is_that_of_the_folder_or_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, places: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("manifest") / "ids"))
    about = json.loads((whole / folders.MANIFEST).read_text())
    (folder / folders.MANIFEST).write_text(json.dumps(changed(about, places)))
    found = refused_or(lambda: trained_on(folder))
    assert places or found
    if found is not None:
        assert len(found.train) == sum(shard["tokens"] for shard in about["shards"]["train"])
    shutil.rmtree(folder.parent)


@HEAVY
@given(st.data())
def test_any_ids_of_a_prepared_folder_are_read_or_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The checksums are right here: somebody has made them after the change."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("ids") / "ids"))
    about = json.loads((whole / folders.MANIFEST).read_text())
    split, number = data.draw(st.sampled_from(token_cache.SPLITS)), data.draw(st.integers(0, 1))
    shard = about["shards"][split][number]
    ids = np.fromfile(whole / shard["file"], "<u2")
    for _ in range(data.draw(st.integers(1, 4))):
        ids[data.draw(st.integers(0, len(ids) - 1))] = data.draw(st.sampled_from([0, 1, 2, 3, 9, 500, 65_535]))
    about["shards"][split][number] = written(folder / shard["file"], ids)
    (folder / folders.MANIFEST).write_text(json.dumps(about))
    refused_or(lambda: trained_on(folder))
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train-00001.ids", "is not a plain file"),
        ("train-00001.ids", "is a link to a path outside"),
        ("more", "is a link to a path outside"),
    ],
)
def test_a_prepared_folder_with_a_pipe_or_a_link_in_it_is_refused(
    whole: Path, tmp_path: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "ids"))
    (folder / name).unlink(missing_ok=True)
    if said == "is not a plain file":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(whole / "train-00001.ids")
    assert f"{folder / name}: {said}" in refused(capsys, "train", folder, "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# Links and pipes


VERBS: dict[str, list[str]] = {
    "train": ["--training.epochs", "3"],
    "generate": ["--max-new-tokens", "5"],
    "evaluate": ["--samples", "0"],
    "inspect": ["--prompt", "The "],
    "export": ["--texts", "2"],
    "info": [],
    "chat": [],
}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody's, in which nothing may change."""
    folder = tmp_path / "outside"
    for name in ("serving/1/a.txt", "tflite/model.tflite", "logs/train/a.txt", "samples.txt", "recipe.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def typed(verb: str, folder: Path) -> list[str | Path]:
    return [verb, *(["--resume"] if verb == "train" else []), folder, *VERBS[verb]]


@pytest.mark.parametrize("name", ["samples.txt", "serving", "tflite", "logs", "recipe.toml"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_run_in_which_a_link_leads_out_is_refused(
    copied: Path, outside: Path, verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if (copied / name).is_dir():
        shutil.rmtree(copied / name)
    (copied / name).unlink(missing_ok=True)
    (copied / name).symlink_to(outside / name)
    before = contents(copied)
    assert f"{copied / name}: is a link to a path outside the folder; " in refused(capsys, *typed(verb, copied))
    assert contents(copied) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_in_which_a_pipe_lies_is_refused_and_nobody_waits_for_it(
    copied: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "metrics.json").unlink()
    os.mkfifo(copied / "metrics.json")
    assert "metrics.json: is not a plain file; " in refused(capsys, *typed(verb, copied))
    assert refused(capsys, verb, "--runs", copied.parent) if verb != "train" else True


def test_a_run_in_which_a_link_leads_out_does_not_hide_the_others(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(copied, copied.parent / "other")
    (copied / "metrics.json").unlink()
    (copied / "metrics.json").symlink_to("/dev/zero")
    os.utime(copied.parent / "other/recipe.toml", (2e9, 2e9))
    assert command_line.main(["info", "--runs", str(copied.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.strip().startswith("tiny ")] == ["damaged"]
    assert any(line.strip().startswith("other ") and "damaged" not in line for line in lines)


def test_links_within_a_run_and_a_run_behind_a_link_are_as_good_as_files(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / run_directory.MODEL).rename(copied / "best.keras")
    (copied / run_directory.MODEL).symlink_to("best.keras")
    (tmp_path / "here").symlink_to(copied)
    assert command_line.main(["generate", str(tmp_path / "here"), "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out
