"""Files that are either whole or not there: written under a temporary name, then renamed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_lstmgen.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, for a file or a folder, that takes the place of ``path`` if the block succeeds.

    Whatever stood at ``path`` before stays until then, also when the disk is full.
    """
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
        yield folder / path.name
        _sync(folder / path.name)
        _put(folder / path.name, path, folder / f"{path.name}.before")
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}); what was there before is kept"
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _put(new: Path, path: Path, before: Path) -> None:
    """Rename ``new`` to ``path``. A folder only takes a name that is free: what has it goes to ``before``, or back."""
    if not new.is_dir() or not path.is_dir():
        os.replace(new, path)
        return
    os.replace(path, before)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(before, path)
        raise


def _sync(path: Path) -> None:
    """Push a file's bytes to the disk, so that the rename cannot overtake them."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all. NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is missing or damaged is the user's to know about."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
