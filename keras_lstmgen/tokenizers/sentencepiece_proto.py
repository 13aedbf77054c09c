"""SentencePiece's description of its models, whatever version of protobuf is installed.

Its generated code is for the newest protobuf and refuses any older one, such as Apache Beam asks for, though the
description itself is the same in all. The variable is protobuf's own switch for that check.
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
