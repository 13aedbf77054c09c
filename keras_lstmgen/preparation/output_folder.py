"""Write a prepared corpus to a folder, or to an address with the file systems of Apache Beam."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_lstmgen.files import atomic, remote
from keras_lstmgen.preparation import beam_files
from keras_lstmgen.utils.errors import UserError

UNFINISHED = ".shard-"


@contextlib.contextmanager
def new_folder(output: str) -> Iterator[str]:
    """Yield the folder for the shards: a temporary folder that is renamed to ``output``, or the address itself."""
    is_address = remote.is_address(output)
    if beam_files.list_files(output) if is_address else Path(output).exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    if not is_address:
        with atomic.replacing(Path(output)) as folder:
            folder.mkdir()
            yield str(folder.absolute())
            for left in folder.glob(f"{UNFINISHED}*"):  # of a worker that was killed and restarted
                shutil.rmtree(left)
        return
    try:
        yield output.rstrip("/")
    except BaseException:
        beam_files.delete(beam_files.list_files(output))
        raise


def write(path: str, data: bytes) -> None:
    """Write a small file to a folder or an address."""
    if not remote.is_address(path):
        atomic.write_bytes(Path(path), data)
        return
    with beam_files.create(path) as file:
        file.write(data)


def read(path: str) -> bytes:
    """Return the content of a file in a folder or at an address."""
    if not remote.is_address(path):
        return Path(path).read_bytes()
    return beam_files.read(path)


def move(path: Path, folder: str) -> None:
    """Move a complete shard to the output; a restarted worker replaces a shard by an equal one."""
    if not remote.is_address(folder):
        path.replace(Path(folder, path.name))
        return
    with path.open("rb") as shard, beam_files.create(f"{folder}/{path.name}") as file:
        shutil.copyfileobj(shard, file)
