"""Import the protobuf classes of SentencePiece with any version of protobuf.

Apache Beam requires an older version of protobuf. The classes of SentencePiece work with the older version, but
their import fails if protobuf checks its version. An environment variable of protobuf disables this check.
"""

import os
from typing import Any

SWITCH = "TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK"


def _imported() -> Any:
    """Import the module of the protobuf classes while the version check is disabled."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "true"
    try:
        from sentencepiece import sentencepiece_model_pb2
    finally:
        del os.environ[SWITCH]
        if before is not None:
            os.environ[SWITCH] = before
    return sentencepiece_model_pb2


proto = _imported()
