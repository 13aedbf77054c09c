"""A folder as a corpus: every text in it is read or the folder is refused, and all else is named with the reason."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Corpus
from keras_lstmgen.data import sources
from keras_lstmgen.files import folders
from keras_lstmgen.files.folders import LeftOut
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError

TINY = ("--model.units", "7", "--model.embedding_size", "4", "--training.batch_size", "3", "--training.window", "5")


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two texts, in the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_LSTMGEN_DATA", raising=False)
    folder = Path("books")
    for name in ("one.txt", "deep/two.txt"):
        write(folder / name, b"The old ferry.\n" * 30)
    return folder


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(name: str | Path) -> list[str]:
    """Return the names of the files that are read, in their order."""
    return [source.name for source in sources.resolve(Corpus(source=(str(name),)))]


def left_out(name: str | Path) -> list[LeftOut]:
    return sorted(sources.left_out([str(name)]))


def a_run(folder: Path) -> Path:
    """Make a folder that looks like a run."""
    write(folder / run_directory.RECIPE, b"[model]\nunits = 3\n")
    write(folder / run_directory.METADATA, b"{}\n")
    write(folder / "samples.txt", b"a sample\n")
    return folder


def test_all_that_a_folder_has_beside_texts_is_named_with_the_reason(books: Path) -> None:
    write(books / ".notes.txt", b"hidden")
    write(books / ".git/config", b"hidden")
    write(books / "cover.png", b"\x89PNG\r\n\x1a\n")
    write(books / "table.bin", b"1\0\2")
    write(books / "nothing.txt", b"")
    write(books / "mark.txt", b"\xef\xbb\xbf")
    write(books / "old.zip", b"PK\x03\x04 and more")
    write(books / "scan.pdf", b"%PDF-1.7\n")
    (books / "shelf").symlink_to("/usr")
    (books / "gone.txt").symlink_to("nowhere")
    os.mkfifo(books / "pipe")
    a_run(books / "saved_models/base")
    write(books / "saved_models/killed/recipe.toml", b"")
    write(books / "ids/prepared.json", b"{}")
    write(books / "model/saved_model.pb", b"")
    assert read(books) == ["books/deep/two.txt", "books/one.txt"]
    assert left_out(books) == [
        ("PDF document", "books/scan.pdf"),
        ("SavedModel", "books/model/"),
        ("ZIP archive", "books/old.zip"),
        ("binary", "books/table.bin"),
        ("broken link", "books/gone.txt"),
        ("empty", "books/mark.txt"),
        ("empty", "books/nothing.txt"),
        ("hidden", "books/.git/"),
        ("hidden", "books/.notes.txt"),
        ("link to a folder", "books/shelf/"),
        ("not a plain file", "books/pipe"),
        ("picture", "books/cover.png"),
        ("prepared corpus", "books/ids/"),
        ("run", "books/saved_models/base/"),
        ("run", "books/saved_models/killed/"),
    ]


def test_a_summary_is_short_however_much_is_left_out() -> None:
    many = [LeftOut("empty", f"{number:02}.txt") for number in range(50)]
    assert (
        folders.summary([LeftOut("run", "r/"), *many, *many]) == "empty (00.txt, 01.txt, 02.txt and 47 more), run (r/)"
    )
    assert folders.summary([]) == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("The café.\n".encode("cp1252"), r"one-more\.txt: not UTF-8 at byte 7; .* iconv -f WINDOWS-1252"),
        ("The café.\n".encode("utf-16"), r"one-more\.txt: is text in UTF-16, .* iconv -f UTF-16"),
        (b"The ferry.\rIt left.\r", r"one-more\.txt: is text with CR line endings, .* tr "),
        (b"\x1f\x8b\x08 cut", r"one-more\.txt: incomplete or damaged \.gz file"),
    ],
)
def test_a_text_that_cannot_be_read_as_it_is_refuses_the_folder(books: Path, data: bytes, said: str) -> None:
    write(books / "deep/one-more.txt", data)
    for look in (read, left_out):
        with pytest.raises(UserError, match=said):
            look(books)


@pytest.mark.parametrize("what", ["deep/two.txt", "deep"])
def test_what_may_not_be_read_refuses_the_folder(books: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal is made up: root, as whom tests may run, is refused nothing."""
    error, opened, listed = PermissionError(errno.EACCES, "Permission denied", str(books / what)), Path.open, os.scandir

    def refusing(path: Any, *words: Any) -> Any:
        if str(path) == str(books / what):
            raise error
        return opened(path, *words) if isinstance(path, Path) else listed(path)

    monkeypatch.setattr(Path, "open", refusing)
    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=rf"books/{what}: cannot be read \(Permission denied\)"):
        read(books)


def test_a_folder_without_texts_says_what_else_it_has(books: Path) -> None:
    for path in ("one.txt", "deep/two.txt"):
        write(books / path, b"")
    with pytest.raises(
        UserError, match=r"contains no text file; left out: empty \(books/deep/two\.txt, books/one\.txt\)"
    ):
        read(books)


@pytest.mark.parametrize("pattern", ["**/*.txt", "*/*/*.txt", "saved_models/*/*"])
def test_a_glob_leaves_the_files_of_runs_out(books: Path, pattern: str) -> None:
    a_run(books / "saved_models/base")
    write(books / "saved_models/notes/a.txt", b"text")
    found = read(books / pattern)
    assert "books/saved_models/notes/a.txt" in found
    assert not [name for name in found if "base" in name]
    assert ("run", "books/saved_models/base/") in left_out(books / pattern)


def test_a_glob_that_begins_in_a_run_means_its_files(books: Path) -> None:
    a_run(books / "base")
    assert read(books / "base/*.txt") == ["books/base/samples.txt"]
    assert read(books / "base/samples.txt") == ["books/base/samples.txt"]


def test_a_glob_names_the_folders_that_it_matches_and_does_not_read(books: Path) -> None:
    assert read(books / "*") == ["books/one.txt"]
    assert left_out(books / "*") == [("folder", "books/deep/")]
    assert left_out(books / "**") == []


def test_a_run_as_a_corpus_is_named_with_the_command_that_resumes_it(books: Path) -> None:
    folder = a_run(books / "my run")
    with pytest.raises(UserError, match=r"is a run, .* keras-lstmgen train --resume 'books/my run'$"):
        read(folder)


def test_a_project_folder_with_a_recipe_of_its_own_is_no_run(books: Path) -> None:
    write(books / run_directory.RECIPE, b"[model]\n")
    assert read(books) == ["books/deep/two.txt", "books/one.txt", "books/recipe.toml"]


def test_the_working_directory_can_be_trained_on_resumed_and_trained_on_again(
    books: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run, and what it writes, is no part of its own corpus. (``trained`` is a whole run with artifacts.)"""
    del books
    typed = ("train", ".", "--name", "mine", *TINY, "--training.epochs")
    assert command_line.main([*typed, "1"]) == 0
    assert capsys.readouterr().err == ""
    shutil.copytree(trained, "saved_models/other")
    assert command_line.main(["train", "--resume", "mine", "--training.epochs", "2"]) == 0
    err = capsys.readouterr().err
    place = f"{Path.cwd()}/saved_models"
    assert err == f"Skipped: hidden ({place}/.encoded/), run ({place}/mine/, {place}/other/)\n"
    assert read(".") == ["books/deep/two.txt", "books/one.txt"]
    assert recipe.load(Path("saved_models/mine/recipe.toml")).corpus.source == (str(Path.cwd()),)
