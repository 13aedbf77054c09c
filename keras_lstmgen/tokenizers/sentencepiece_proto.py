"""Import SentencePiece's protobuf classes with any version of protobuf.

The generated code of SentencePiece requires the newest protobuf, but also works with older versions, such as the one
that Apache Beam requires. An environment variable of protobuf disables the check of the version.
"""

import os
from typing import Any

SWITCH = "TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK"


def _imported() -> Any:
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
