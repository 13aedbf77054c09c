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

sys.path.append(str(Path(__file__).resolve().parents[2]))  # contains export/; as the last path, it hides no module
from export.tf_serving.request import NAME, Answers, Inputs, main

sys.path.pop()

TIMEOUT = 60.0  # seconds


def body(inputs: Mapping[str, Any], signature: str = "serving_default") -> bytes:
    """Return the body of a request as JSON; each input is a list with one entry per text."""
    return json.dumps({"signature_name": signature, "inputs": inputs}, ensure_ascii=False).encode()


def call(server: str, data: bytes) -> Any:
    """Send a request to a server such as ``http://localhost:8501``.

    Returns:
        The outputs by name, each with one entry per text. If the signature has a single output, only this output
        without its name.

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
        raise ValueError(f"the response is not a response of TF Serving: {error!r}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the error message of a response; without one, return the body or the status of the response."""
    data = error.read().decode(errors="replace")
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return data or str(error)


def ask(server: str, inputs: Inputs) -> Answers:
    """Request texts from a server with the signature ``serving_default``."""
    answers: Answers = call(server, body(inputs))
    return answers


if __name__ == "__main__":
    sys.exit(main(ask, "REST", "http://localhost:8501"))
