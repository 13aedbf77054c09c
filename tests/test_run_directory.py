"""A run is complete in its folder, nothing in it is overwritten or executed, and damage is one clear line."""

import base64
import json
import marshal
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.files import atomic
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError


def test_a_run_moved_elsewhere_writes_what_it_wrote_where_it_was_trained(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Generator(run_directory.load(copied)).generate("The ", GenerationConfig(25), seeds=[3])[0].text
    moved = copied.rename(tmp_path / "else where 月")
    assert not copied.exists()
    monkeypatch.chdir(moved)
    assert Generator(run_directory.load(Path("."))).generate("The ", GenerationConfig(25), seeds=[3])[0].text == before


def test_what_a_run_holds_names_no_place_outside_the_run_but_its_corpus(trained: Path) -> None:
    metadata = run_directory.load_metadata(trained)
    assert metadata.recipe["corpus"].pop("source")
    assert str(trained.parent) not in json.dumps([metadata.recipe, metadata.metrics])
    for name in ("metrics.json", "history.json", "export.json"):
        assert str(trained.parent) not in (trained / name).read_text(encoding="utf-8"), name


def test_a_finished_run_holds_all_its_parts_and_nothing_unfinished(trained: Path) -> None:
    said = {"recipe.toml", "tokenizer.model", "model.keras", "checkpoint.keras", "keras_lstmgen.json", "metrics.json"}
    said |= {"checkpoint.before.keras", "README.md"}
    shown = {"history.json", "curve.png", "samples.txt", "logs", "export.json", "serving", "tflite", "onnx"}
    assert {path.name for path in trained.iterdir()} == said | shown
    assert not list(trained.rglob(".*"))
    assert (trained / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert recipe.load(trained / "recipe.toml") == recipe.parse(run_directory.load_metadata(trained).recipe)


def test_the_model_loads_in_keras_s_safe_mode_and_is_the_one_that_writes(trained: Path, trained_lines: Path) -> None:
    for folder in (trained, trained_lines):
        model, ids = run_directory.load(folder), np.array([[5, 6, 7, 8]])
        again = keras.saving.load_model(folder / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(again(ids), model.model(ids))


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "novel-2").write_text("a file of somebody's")
    (run_directory.create(tmp_path, "novel") / "recipe.toml").write_text("first")
    names = [run_directory.create(tmp_path, "novel").name for _ in range(3)]
    assert names == ["novel-3", "novel-4", "novel-5"]
    assert (tmp_path / "novel/recipe.toml").read_text() == "first"
    assert (tmp_path / "novel-2").read_text() == "a file of somebody's"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden", "../up"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        run_directory.create(tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be created \(Not a directory\)"):
        run_directory.create(tmp_path / "file", "novel")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Three runs, the second of which is the newest; and a folder that is no run."""
    for age, name in enumerate(["novel", "poems", "sermons"]):
        atomic.write_text(tmp_path / "shelf" / name / "recipe.toml", "")
        os.utime(tmp_path / "shelf" / name / "recipe.toml", (0, 50 if name == "poems" else age))
    (tmp_path / "shelf/notes").mkdir()
    return tmp_path / "shelf"


def test_a_run_is_found_by_path_by_name_and_without_either_the_newest(shelf: Path) -> None:
    assert run_directory.find(str(shelf / "novel"), Path("nowhere")) == shelf / "novel"
    assert run_directory.find("sermons", shelf) == shelf / "sermons"
    assert run_directory.find(None, shelf) == shelf / "poems"


def test_what_lies_in_the_working_directory_hides_no_run_and_a_slash_makes_a_path(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shelf.parent / "novel").mkdir()
    (shelf.parent / "letters").mkdir()
    monkeypatch.chdir(shelf.parent)
    assert run_directory.find("novel", Path("shelf")) == Path("shelf/novel")
    for word in ("./novel", "novel/", str(shelf.parent / "novel")):
        assert run_directory.find(word, Path("shelf")).resolve() == shelf.parent / "novel"
    with pytest.raises(UserError, match=r"^letters: there is no such run; to select the folder .*, type \./letters$"):
        run_directory.find("letters", Path("shelf"))
    with pytest.raises(UserError, match=r"^: there is no such run"):
        run_directory.find("", Path("shelf"))
    monkeypatch.chdir(shelf / "novel")
    assert run_directory.find(".", Path("..")).resolve() == shelf / "novel"
    assert run_directory.find("..", Path("..")).resolve() == shelf


def test_a_run_that_is_not_there_is_an_error_that_names_the_nearest(shelf: Path) -> None:
    with pytest.raises(UserError, match=r"^peoms: there is no such run; the nearest is 'poems'$"):
        run_directory.find("peoms", shelf)


def test_where_there_is_no_run_the_error_says_how_to_train_one(tmp_path: Path) -> None:
    for name in (None, "novel"):
        with pytest.raises(UserError, match=r"no (such )?run; train one with 'keras-lstmgen train'"):
            run_directory.find(name, tmp_path / "empty")


def cut(name: str, part: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * part)])

    return damage


def garbage(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(bytes(range(256)) * 40)

    return damage


def missing(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()

    return damage


def said(**values: Any) -> Callable[[Path], None]:
    """Change what the metadata says; a name with two underscores is one of the recipe's model."""

    def damage(folder: Path) -> None:
        metadata = json.loads((folder / "keras_lstmgen.json").read_text(encoding="utf-8"))
        for name, value in values.items():
            table = metadata["recipe"]["model"] if name.startswith("model__") else metadata
            table[name.removeprefix("model__")] = value
        (folder / "keras_lstmgen.json").write_text(json.dumps(metadata), encoding="utf-8")

    return damage


def forget(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        metadata = json.loads((folder / "keras_lstmgen.json").read_text(encoding="utf-8"))
        del metadata[name]
        (folder / "keras_lstmgen.json").write_text(json.dumps(metadata), encoding="utf-8")

    return damage


DAMAGES = {
    "half written": (missing("model.keras"), r"moved: is not a finished run \(model.keras is missing\).*--resume"),
    "weights cut at the end": (cut("model.keras", 0.99), r"model\.keras: does not contain the weights"),
    "weights cut in the middle": (cut("model.keras", 0.5), r"model\.keras: does not contain the weights"),
    "weights empty": (cut("model.keras", 0.0), r"model\.keras: does not contain the weights"),
    "weights garbage": (garbage("model.keras"), r"model\.keras: does not contain the weights"),
    "no tokenizer": (missing("tokenizer.model"), r"moved: is incomplete, tokenizer\.model is missing"),
    "tokenizer cut": (cut("tokenizer.model", 0.5), r"tokenizer\.model: not a complete SentencePiece model"),
    "tokenizer garbage": (garbage("tokenizer.model"), r"tokenizer\.model: not a"),
    "no metadata": (missing("keras_lstmgen.json"), r"keras_lstmgen\.json: cannot be read as JSON"),
    "metadata cut": (cut("keras_lstmgen.json", 0.5), r"keras_lstmgen\.json: cannot be read as JSON"),
    "metadata not UTF-8": (garbage("keras_lstmgen.json"), r"keras_lstmgen\.json: cannot be read as JSON"),
    "metadata of the future": (said(format_version=2), r"keras_lstmgen\.json: is not metadata of format 1"),
    "metadata of something else": (said(colour="red"), r"keras_lstmgen\.json: is damaged \(.*colour"),
    "metadata lacks a key": (forget("end_id"), r"keras_lstmgen\.json: is damaged \(.*end_id"),
    "metadata lacks ids": (forget("unsampled_ids"), r"keras_lstmgen\.json: is damaged \(.*unsampled_ids"),
    "a word for a number": (said(vocab_size="331"), r"keras_lstmgen\.json: is damaged \(vocab_size"),
    "ids that are none": (said(unsampled_ids=[1.5]), r"keras_lstmgen\.json: is damaged \(unsampled_ids"),
    "ids that are no list": (said(unsampled_ids=3), r"keras_lstmgen\.json: is damaged"),
    "a recipe that is none": (said(recipe=[]), r"keras_lstmgen\.json: is damaged \(recipe"),
    "a recipe out of range": (said(model__units=-5), r"keras_lstmgen\.json: model\.units: -5 is out of range"),
    "an id outside": (said(unsampled_ids=[0, 331]), r"keras_lstmgen\.json: contains ids outside the vocabulary of 331"),
    "an id below": (said(end_id=-1), r"keras_lstmgen\.json: contains ids outside the vocabulary"),
    "a vocabulary too large to build": (said(vocab_size=10**12), "are of different runs"),
    "another state": (said(state_size=47), "are of different runs"),
    "fewer layers": (said(model__layers=1, state_size=24), r"model\.keras: contains 8,022 weights, but .* has 6,822"),
    "more layers": (said(model__layers=3, state_size=72), r"model\.keras: contains 8,022 weights, but .* has 9,222"),
    "more units": (said(model__units=13, state_size=52), r"model\.keras: contains 8,022 weights, but .* has 8,681"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_one_clear_line(copied: Path, name: str) -> None:
    damage, line = DAMAGES[name]
    damage(copied)
    with pytest.raises(UserError, match=line) as caught:
        run_directory.load(copied)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["tokenizer.model", "model.keras"])
def test_files_of_two_runs_in_one_folder_are_refused(copied: Path, trained_lines: Path, name: str) -> None:
    shutil.copy(trained_lines / name, copied / name)
    with pytest.raises(UserError, match=r"are of different runs|contains 6,378 weights, but .* has 8,022"):
        run_directory.load(copied)


def code_that_writes(path: Path) -> dict[str, Any]:
    """The configuration of a Keras layer whose function writes a file when it is called."""
    act = compile(f"lambda x: (open({str(path)!r}, 'w').close(), x)[1]", "evil", "eval").co_consts[0]
    code = base64.b64encode(marshal.dumps(act)).decode()
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    config = {"name": "evil", "trainable": True, "dtype": "float32", "function": function, "arguments": {}}
    return {"module": "keras.layers", "class_name": "Lambda", "config": config, "registered_name": None}


def put_layer(path: Path, layer: dict[str, Any]) -> None:
    """Add a layer to the configuration in a ``.keras`` file; the weights stay as they are."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"].append(layer)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_code_inside_a_keras_file_is_never_executed(copied: Path, tmp_path: Path) -> None:
    """Only numbers are read. Keras, told to trust the file, does execute what stands in it here."""
    before = Generator(run_directory.load(copied)).generate("The ", GenerationConfig(20), seeds=[1])[0].text
    mark = tmp_path / "executed"
    put_layer(copied / "model.keras", code_that_writes(mark))
    assert Generator(run_directory.load(copied)).generate("The ", GenerationConfig(20), seeds=[1])[0].text == before
    assert not mark.exists()
    with pytest.raises(ValueError, match=r"unsafe|safe_mode"):
        keras.saving.load_model(copied / "model.keras", safe_mode=True)
    assert not mark.exists()
    keras.saving.load_model(copied / "model.keras", safe_mode=False)(np.array([[5]]))
    assert mark.exists()


def test_metadata_that_is_written_is_read_again(copied: Path) -> None:
    changed = replace(run_directory.load_metadata(copied), end_id=9, metrics={"note": "月"})
    run_directory.save_metadata(copied, changed)
    assert run_directory.load_metadata(copied) == changed


def test_a_file_of_a_run_in_the_place_of_its_name_names_the_run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parent)
    for word in (f"{trained}/model.keras", f"{trained.name}/metrics.json", f"./{trained.name}/tflite/model.tflite"):
        with pytest.raises(UserError, match=r"name the run: \S*small$") as refused:
            run_directory.find(word, trained.parent)
        assert run_directory.find(str(refused.value).rpartition(" ")[2], trained.parent).samefile(trained)
