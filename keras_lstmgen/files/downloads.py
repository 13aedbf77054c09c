"""Download files into the cache folder, and verify their checksums."""

import logging
import re
from pathlib import Path

from keras_lstmgen.files import data_folder
from keras_lstmgen.files.atomic import replacing
from keras_lstmgen.files.checksums import sha256
from keras_lstmgen.utils.errors import UserError

CHUNK = 1 << 16  # bytes to read at a time
TIMEOUT = 60  # seconds to wait for an answer of the server
# The server must send the file without compression, because the checksum belongs to the uncompressed file.
IDENTITY = {"Accept-Encoding": "identity"}


def is_url(name: str) -> bool:
    """Return whether a name is an http or https URL.

    >>> is_url("https://example.org/text.txt"), is_url("gs://bucket/text.txt")
    (True, False)
    """
    return name.startswith(("http://", "https://"))


def fetch(url: str, checksum: str) -> Path:
    """Return the path of a local copy of a URL.

    The file is downloaded only if neither the data folder nor the cache folder contains it.

    Args:
        url: an http or https URL.
        checksum: SHA-256 of the file in lower-case hexadecimal.

    Returns:
        The path of a file with this checksum.

    Raises:
        UserError: the checksum is missing or invalid, the download fails, or the downloaded file has another checksum.
    """
    if not re.fullmatch("[0-9a-f]{64}", checksum):  # the check also protects ``_cache_path``, which uses the checksum
        raise UserError(
            f"{url}: a download needs its checksum in corpus.sha256; print it with: curl -L {url} | sha256sum"
        )
    if path := local_copy(url, checksum):
        return path
    path = _cache_path(url, checksum)
    with replacing(path) as temporary:
        _download(url, checksum, temporary)
    return path


def local_copy(url: str, checksum: str) -> Path | None:
    """Return the path of a copy of a URL in the data folder or the cache folder, or None if there is no copy."""
    candidates = [*data_folder.find(_file_name(url), checksum), _cache_path(url, checksum)]
    return next((path for path in candidates if path.is_file() and sha256(path) == checksum), None)


def _cache_path(url: str, checksum: str) -> Path:
    return data_folder.cache_folder() / f"{checksum[:16]}-{_file_name(url)}"


def _file_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2] or "download"


def _download(url: str, checksum: str, path: Path) -> None:
    """Download a URL to ``path`` and verify the checksum."""
    import pooch  # imported here because only downloads need it

    pooch.get_logger().setLevel(logging.WARNING)  # by default, pooch logs each download to standard error
    downloader = pooch.HTTPDownloader(chunk_size=CHUNK, timeout=TIMEOUT, headers=IDENTITY)
    try:
        pooch.retrieve(url, f"sha256:{checksum}", fname=path.name, path=path.parent, downloader=downloader)
    except OSError as error:  # the base class of all exceptions of the package requests
        reason = str(_root_cause(error)) or type(error).__name__
        raise UserError(f"{url}: cannot be downloaded ({reason}); check the address and the network") from error
    except ValueError as error:
        reason = str(error).partition(". Deleted")[0]
        raise UserError(f"{url}: {reason}; correct corpus.sha256 or the URL") from error


def _root_cause(error: BaseException) -> BaseException:
    """Return the first cause in a chain of exceptions, such as an error of the operating system."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
