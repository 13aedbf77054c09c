"""Ask a running TF Serving for text by REST: needs Python alone.

python export/tf_serving/rest.py --prompt "Once" --seed 1
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds export/, whose files are shared
from export.tf_serving.request import NAME, Answers, Inputs, main

SECONDS = 60.0  # to wait for an answer


def body(inputs: Inputs, signature: str = "serving_default") -> bytes:
    """The body of a request: the inputs as columns."""
    return json.dumps({"signature_name": signature, "inputs": inputs}, ensure_ascii=False).encode()


def ask(server: str, inputs: Inputs) -> Answers:
    """Post to ``server``, as http://localhost:8501; ``ValueError`` with what the server says if it refuses."""
    request = urllib.request.Request(f"{server}/v1/models/{NAME}:predict", body(inputs))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            outputs: Answers = json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode(errors="replace")) from error
    return outputs


if __name__ == "__main__":
    sys.exit(main(ask, "REST", "http://localhost:8501"))
