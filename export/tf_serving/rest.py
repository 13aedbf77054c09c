"""Request text from TF Serving by REST; requires only Python.

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

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for export/; last, to hide no other module
from export.tf_serving.request import NAME, Answers, Inputs, main

sys.path.pop()

TIMEOUT = 60.0  # seconds


def body(inputs: Mapping[str, Any], signature: str = "serving_default") -> bytes:
    """Return the body of a request, with the inputs as columns."""
    return json.dumps({"signature_name": signature, "inputs": inputs}, ensure_ascii=False).encode()


def call(server: str, data: bytes) -> Any:
    """Send a request to a server such as ``http://localhost:8501``.

    Returns:
        The outputs as columns by name; a single output without its name.

    Raises:
        ValueError: with the error message of the server.
    """
    request = urllib.request.Request(f"{server}/v1/models/{NAME}:predict", data)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        raise ValueError(_reason(error)) from error
    except (http.client.HTTPException, KeyError, TypeError) as error:
        raise ValueError(f"no answer of TF Serving: {error!r}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the error message in the JSON of a server, or the body or status of any other response."""
    data = error.read().decode(errors="replace")
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return data or str(error)


def ask(server: str, inputs: Inputs) -> Answers:
    """Request texts with the string signature."""
    answers: Answers = call(server, body(inputs))
    return answers


if __name__ == "__main__":
    sys.exit(main(ask, "REST", "http://localhost:8501"))
