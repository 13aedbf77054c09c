"""A file is whole or not there, whatever happens while it is written."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keras_lstmgen.files import atomic
from keras_lstmgen.utils.errors import UserError

KEPT = "the previous version is kept"


def names(folder: Path) -> list[str]:
    """All that stands in a folder, hidden and temporary things too."""
    return sorted(path.name for path in folder.iterdir())


def write_after(folder: Path) -> None:
    with atomic.replacing(folder / "a.txt", before=folder / "b.txt") as path:
        path.write_text("after")


def write_half(path: Path, error: BaseException) -> None:
    path.write_text("half")
    raise error


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that has something to lose."""
    path = tmp_path / "precious.txt"
    path.write_text("old")
    return path


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4,096 bytes: the system itself refuses, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python sets it; else the process would be killed
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_what_was_written_takes_the_place_of_what_was_there(file: Path) -> None:
    atomic.write_text(file, "new\r\nлиния\n")
    assert file.read_bytes() == "new\r\nлиния\n".encode()
    assert names(file.parent) == ["precious.txt"]


def test_until_the_block_ends_the_old_file_is_there(file: Path) -> None:
    with atomic.replacing(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_the_old_file_survives_whatever_breaks_the_block_off(file: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), atomic.replacing(file) as temporary:
        write_half(temporary, error)
    assert file.read_text() == "old"
    assert names(file.parent) == ["precious.txt"]


def test_an_error_of_the_system_is_told_in_one_line_and_the_old_file_survives(file: Path) -> None:
    said = rf"precious\.txt: could not be written \(No space left on device\); {KEPT}$"
    with pytest.raises(UserError, match=said), atomic.replacing(file) as temporary:
        write_half(temporary, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert file.read_text() == "old"
    assert names(file.parent) == ["precious.txt"]


def test_a_block_that_writes_nothing_is_an_error(file: Path) -> None:
    with pytest.raises(UserError, match=KEPT), atomic.replacing(file):
        pass
    assert file.read_text() == "old"


@pytest.mark.usefixtures("small_disk")
def test_a_file_too_large_for_the_system_leaves_the_old_one(file: Path) -> None:
    with pytest.raises(UserError, match=rf"could not be written \(File too large\); {KEPT}"):
        atomic.write_bytes(file, b"x" * 5000)
    assert file.read_text() == "old"
    assert names(file.parent) == ["precious.txt"]


def test_a_full_disk_leaves_the_old_file_and_no_leftovers(full_disk: Path) -> None:
    file = full_disk / "precious.txt"
    atomic.write_text(file, "old")
    with pytest.raises(UserError, match=rf"could not be written \(No space left on device\); {KEPT}"):
        atomic.write_bytes(file, b"x" * 100_000)
    assert file.read_text() == "old"
    assert names(full_disk) == ["precious.txt"]
    atomic.write_bytes(file, b"x" * 40_000)  # the space is free again


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    for version in ("old", "new"):
        with atomic.replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / version).write_text(version)
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["artifact"]


def test_a_folder_survives_a_failure_within_the_block(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic.replacing(folder) as temporary:
        write_half(temporary, ZeroDivisionError())
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["artifact"]


def test_a_folder_survives_a_failure_of_the_very_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "artifact", os.replace
    folder.mkdir()
    (folder / "old").touch()

    def fail(source: Path, target: Path) -> None:
        if target == folder and source.name == "artifact":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=KEPT), atomic.replacing(folder) as temporary:
        temporary.mkdir()
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["artifact"]


def test_a_folder_called_before_can_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "before"
    folder.mkdir()
    with atomic.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(folder) == ["new"]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "saved_models"
    folder.mkdir()
    (folder / "run").touch()
    with pytest.raises(UserError, match=rf"saved_models: could not be written \(Is a directory\); {KEPT}"):
        atomic.write_text(folder, "text")
    assert names(folder) == ["run"]
    assert names(tmp_path) == ["saved_models"]


def test_where_no_folder_can_be_made_is_told_in_one_line(file: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt: could not be written \((File exists|Not a directory)\)"):
        atomic.write_text(file / "a.txt", "text")
    assert file.read_text() == "old"


def test_json_is_read_back_and_holds_no_infinity(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    atomic.write_json(path, {"a": [1.5, "ü"]})
    assert atomic.read_json(path) == {"a": [1.5, "ü"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": [1.5, "ü"]}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", None])
def test_json_that_cannot_be_read_is_told_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "values.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"values\.json: cannot be read as JSON"):
        atomic.read_json(path)


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a power loss keeps what was said to be saved."""
    done: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def renamed(one: Path, other: Path) -> None:
        replace(one, other)
        done.append(("rename", Path(other).name))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    (tmp_path / "a.txt").write_text("before")
    with atomic.replacing(tmp_path / "a.txt", before=tmp_path / "b.txt") as path:
        path.write_text("after")
    assert done == [("sync", "a.txt"), ("rename", "b.txt"), ("rename", "a.txt"), ("sync", tmp_path.name)]


@pytest.mark.parametrize("last", [1, 2], ids=["the old one's rename", "the new one's rename"])
def test_a_file_is_at_its_place_at_every_moment_also_where_from_some_rename_on_all_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """So that a disk that turns read-only between two renames, or a kill there, takes no file away."""
    replace, left = os.replace, last

    def refusing(one: Path, other: Path) -> None:
        nonlocal left
        assert (tmp_path / "a.txt").read_text() == "before"
        left -= 1
        if not left:
            left = 1
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        replace(one, other)

    monkeypatch.setattr(os, "replace", refusing)
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(UserError, match=KEPT):
        write_after(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "before"
    assert names(tmp_path) == ["a.txt", "b.txt"][:last]


def test_where_a_file_has_but_one_name_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refusing)
    (tmp_path / "a.txt").write_text("before")
    write_after(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "after", "b.txt": "before"}


# What else a path can be


def test_a_link_stays_one_and_a_new_file_keeps_mode_and_owner(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "links" / "link"
    link.parent.mkdir()
    link.symlink_to("../precious.txt")
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    owner = file.stat().st_uid
    atomic.write_text(link, "new")
    about = file.stat()
    assert link.is_symlink()
    assert (file.read_text(), about.st_mode & 0o777, about.st_uid) == ("new", 0o600, owner)
    assert (names(tmp_path), names(link.parent)) == (["links", "precious.txt"], ["link"])


def test_an_artifact_put_in_the_place_of_another_keeps_its_mode(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    with atomic.temporary_folder(tmp_path) as place:
        (place / "new").write_text("new")
        atomic.move_into_place(place / "new", file)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)


def test_a_text_goes_to_all_names_of_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").hardlink_to(file)
    atomic.write_output(file, "new")
    assert (tmp_path / "other.txt").read_text() == "new"


def test_a_text_goes_through_a_pipe_which_stays(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    atomic.check_output(pipe)
    atomic.write_output(pipe, "new")
    reader.join()
    assert got == ["new"]
    assert pipe.is_fifo()


def test_a_text_goes_into_a_device_which_stays(tmp_path: Path) -> None:
    """Devices of the test's own: a fault would replace those of the system."""
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        for path, number in ((null, 3), (full, 7)):  # as Linux numbers them
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, number))
        null.write_text("")
    except OSError:
        pytest.skip("no devices can be made here (needs root)")
    atomic.check_output(null)
    atomic.write_output(null, "new")
    with pytest.raises(UserError, match=r"full: could not be written \(No space left on device\)$"):
        atomic.write_output(full, "new")
    assert null.is_char_device()
    assert full.is_char_device()


def test_a_text_goes_to_standard_output_behind_what_stands_there(tmp_path: Path) -> None:
    (link := tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is, which a fault would replace
    program = "import sys, pathlib; from keras_lstmgen.files import atomic; p = pathlib.Path(sys.argv[1]); "
    program += "atomic.check_output(p); atomic.write_output(p, 'new')"
    command = [sys.executable, "-c", program, str(link)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"new"
    (tmp_path / "log").write_text("old ")
    with (tmp_path / "log").open("a") as log:
        subprocess.run(command, stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "old new"


def test_a_file_that_may_be_written_in_a_folder_that_may_not_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))
    atomic.check_output(file)
    atomic.write_output(file, "new")
    assert file.read_text() == "new"
    with pytest.raises(UserError, match=r"there is no folder .* that may be written to"):
        atomic.check_output(tmp_path / "other.txt")


def test_a_file_that_may_not_be_written_is_known_before_the_work(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != file)
    with pytest.raises(UserError, match=r"precious\.txt: may not be written to; name another file"):
        atomic.check_output(file)
