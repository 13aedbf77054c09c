"""Ask a running TF Serving for text by REST: needs Python alone.

python export/tf_serving/rest.py --prompt "Once" --seed 1
"""

import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # what holds export/, last: it hides no module
from export.tf_serving.request import NAME, Answers, Inputs, main

sys.path.pop()

SECONDS = 60.0  # to wait for an answer


def body(inputs: Mapping[str, Any], signature: str = "serving_default") -> bytes:
    """The body of a request: the inputs as columns."""
    return json.dumps({"signature_name": signature, "inputs": inputs}, ensure_ascii=False).encode()


def call(server: str, data: bytes) -> Any:
    """Post to ``server``, as http://localhost:8501, and give its outputs: columns by name, or the only one by itself.

    ``ValueError`` with what the server says if it refuses.
    """
    request = urllib.request.Request(f"{server}/v1/models/{NAME}:predict", data)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        raise ValueError(_said(error)) from error
    except (http.client.HTTPException, KeyError, TypeError) as error:
        raise ValueError(f"no answer of TF Serving: {error!r}") from error


def _said(error: urllib.error.HTTPError) -> str:
    """Why a server refuses: the words in its JSON or, of whoever else answers there, the body or the status."""
    data = error.read().decode(errors="replace")
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return data or str(error)


def ask(server: str, inputs: Inputs) -> Answers:
    """Texts, by the signature in strings."""
    answers: Answers = call(server, body(inputs))
    return answers


if __name__ == "__main__":
    sys.exit(main(ask, "REST", "http://localhost:8501"))
