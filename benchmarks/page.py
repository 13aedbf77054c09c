"""Generate text with the web page: with its worker in a browser, or with its modules in Node."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_lstmgen.exporters import web
from keras_lstmgen.exporters.verify import Case
from keras_lstmgen.models import run_directory as runs
from keras_lstmgen.utils.errors import UserError
from tests import chromium

Write = Callable[[Path, list[dict[str, Any]]], list[list[int]]]  # (folder, requests) → the tokens of each text


def in_browser(folder: Path, requests: list[dict[str, Any]]) -> list[list[int]]:
    """What the worker writes, in Chromium; the folder is served to it and to nobody else."""
    with tempfile.TemporaryDirectory() as place, chromium.served(folder) as url:
        kit = chromium.kit(Path(place) / "kit")
        tasks = [{"name": "texts", "task": "tokens", "url": url, "requests": requests}]
        tokens: list[list[int]] = chromium.drive(kit, tasks)["texts"]
    return tokens


def in_node(folder: Path, requests: list[dict[str, Any]]) -> list[list[int]]:
    """What the page's modules write without a page."""
    command = ["node", str(web.kit() / "run.mjs"), str(folder)]
    done = subprocess.run(command, input=json.dumps(requests), check=True, capture_output=True, encoding="utf-8")
    return [text["tokens"] for text in json.loads(done.stdout)]


BROWSER, NODE = "web page, in Chromium", "web page, in Node"
WAYS: dict[str, Write] = {BROWSER: in_browser, NODE: in_node}


def texts(
    run: runs.Run, prompts: list[str], cases: list[Case], tokens: int, ways: Sequence[str] = tuple(WAYS)
) -> tuple[str, list[list[int]]]:
    """Which of the ways wrote, and the tokens, filled up with end tokens as a graph does.

    There are none where Node.js is not there or npm cannot fetch what the page needs.
    """
    requests = [request(*asked, tokens) for asked in zip(prompts, cases, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            web.write(run, Path(folder))
            name, written = _first(ways, Path(folder) / web.PATH, requests)
        except UserError as error:
            return f"web page, not run: {error}", []
    end = run.metadata.end_id
    return name, [[*text, *[end] * (tokens - len(text))] for text in written]


def request(prompt: str, case: Case, tokens: int) -> dict[str, Any]:
    """A text as the page is asked for it; no number of JavaScript holds a seed of 64 bits."""
    return {"prompt": prompt, "seed": str(case.seed), "options": vars(case.options), "max_new_tokens": tokens}


def _first(ways: Sequence[str], folder: Path, requests: list[dict[str, Any]]) -> tuple[str, list[list[int]]]:
    """The first way that is open here; what is in the way of the others goes to standard error."""
    *before, last = ways
    for name in before:
        try:
            return name, WAYS[name](folder, requests)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return last, WAYS[last](folder, requests)
