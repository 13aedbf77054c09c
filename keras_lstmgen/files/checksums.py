"""Compute SHA-256 checksums of local files. The checksum of an unchanged file is computed only once."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from keras_lstmgen.utils.errors import UserError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _cached_sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@functools.lru_cache(maxsize=1024)
def _cached_sha256(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 a changed file is hashed again
    """Return the SHA-256 of a file; the arguments are the cache key, so that a changed file gets a new entry."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_chunks(chunks: Iterable[bytes], path: Path) -> str:
    """Write chunks of bytes to a file, and return the SHA-256 of the whole file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
