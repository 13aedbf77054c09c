"""Read the file of ``generate --prompts``: one prompt per line, or one JSON object per line."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from keras_lstmgen.config import generate_options
from keras_lstmgen.utils.errors import UserError


class PromptLine(NamedTuple):
    """A line of a prompt file.

    Attributes:
        place: file name and line number, for messages.
        prompt: the prompt.
        values: the options of this line by name. They replace the options of the command line.
    """

    place: str
    prompt: str
    values: dict[str, Any]


def read(name: str) -> list[PromptLine]:
    """Read and check a prompt file, without TensorFlow.

    If the first line begins with ``{``, each line is a JSON object with the key ``prompt`` and options of ``generate``
    by name, such as ``{"prompt": "It was", "top_k": 5}``. Otherwise, each line is a prompt.

    Args:
        name: path of the file; "-" for standard input.

    Raises:
        UserError: if the file cannot be read, or if a line is invalid. The message names the file and the line.
    """
    lines = _text(name).removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{name}: has no prompts; give one prompt per line")
    if not lines[0].startswith("{"):
        return [PromptLine(f"{name}:{number}", line, {}) for number, line in enumerate(lines, 1)]
    return [_parse(f"{name}:{number}", line) for number, line in enumerate(lines, 1)]


def _text(name: str) -> str:
    """Return the text of a file, with newlines as line ends."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: not UTF-8 at byte {error.start}; convert the file first") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from error


def _parse(place: str, line: str) -> PromptLine:
    """Parse a JSON object with a prompt and options."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply or a number has too many digits")
        raise UserError(f"{place}: is not JSON ({reason}); give an object such as {_EXAMPLE}") from error
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
        raise UserError(f"{place}: has no prompt; give an object such as {_EXAMPLE}")
    prompt = values.pop("prompt")
    try:
        prompt.encode("utf-8")
        generate_options.parse(values)
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the prompt is not valid Unicode (half a surrogate pair)") from error
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    return PromptLine(place, prompt, values)


_EXAMPLE = '{"prompt": "It was", "seed": 7}'
