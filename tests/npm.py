"""npm, which fetches what only a browser needs. Where it cannot, a test skips and says why."""

import re
import shutil
from collections.abc import Callable
from typing import TypeVar

import pytest

from keras_lstmgen.utils.errors import UserError

NO_NETWORK = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT")  # as npm says it
Made = TypeVar("Made")


def or_skip(make: Callable[[], Made]) -> Made:
    """What npm has a part in, made; without npm, or without a network that it needs, the test skips."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        return make()
    except UserError as error:
        if code := NO_NETWORK.search(str(error)):
            pytest.skip(
                f"npm does not reach its registry ({code[0]}), and the cache folder has not what it would bring"
            )
        raise
