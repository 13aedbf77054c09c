"""Write the files of a prepared corpus to a local folder or to an address of a remote file system."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_lstmgen.files import atomic, remote
from keras_lstmgen.preparation import beam_files
from keras_lstmgen.utils.errors import UserError

UNFINISHED = ".shard-"  # prefix of the names of temporary folders in which shards are written


@contextlib.contextmanager
def new_folder(output: str) -> Iterator[str]:
    """Yield the folder in which to write the files of a prepared corpus.

    If the output is local, the yielded folder is a temporary folder. It is renamed to ``output`` if no error occurs.
    If the output is remote, the address itself is yielded. The files at the address are removed if an error occurs.

    Raises:
        UserError: if the output exists.
    """
    is_address = remote.is_address(output)
    if beam_files.list_files(output) if is_address else Path(output).exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    if not is_address:
        with atomic.replacing(Path(output)) as folder:
            folder.mkdir()
            yield str(folder.absolute())
            for left in folder.glob(f"{UNFINISHED}*"):  # a worker that was killed leaves its temporary folder
                shutil.rmtree(left)
        return
    try:
        yield output.rstrip("/")
    except BaseException:
        beam_files.delete(beam_files.list_files(output))
        raise


def write(path: str, data: bytes) -> None:
    """Write a small file at a local path or an address."""
    if not remote.is_address(path):
        atomic.write_bytes(Path(path), data)
        return
    with beam_files.create(path) as file:
        file.write(data)


def read(path: str) -> bytes:
    """Return the bytes of a file at a local path or an address."""
    if not remote.is_address(path):
        return Path(path).read_bytes()
    return beam_files.read(path)


def move(path: Path, folder: str) -> None:
    """Move a complete shard to the output folder or address.

    If a worker was restarted, a shard with the same name and the same contents may already exist. The existing shard is
    then replaced.
    """
    if not remote.is_address(folder):
        path.replace(Path(folder, path.name))
        return
    with path.open("rb") as shard, beam_files.create(f"{folder}/{path.name}") as file:
        shutil.copyfileobj(shard, file)
