"""Generate text with a TFLite file; requires numpy and ai-edge-litert.

python export/tflite/generate.py model.tflite --prompt "Once" --seed 1
"""

import struct
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

sys.path.append(str(Path(__file__).resolve().parents[2]))  # contains export/; as the last path, it hides no module
from export.client import THREADS, main, silence
from export.contract import Floats, Step

sys.path.pop()


def load(path: Path) -> tuple[Step, bytes, bytes]:
    """Open a TFLite file; return its signature ``step``, and metadata and tokenizer from its metadata buffers."""
    carried = metadata_buffers(path.read_bytes())
    if not carried.keys() >= {"keras_lstmgen", "tokenizer"}:
        raise ValueError("it does not contain the metadata 'keras_lstmgen' and 'tokenizer'")
    interpreter = Interpreter(str(path), num_threads=THREADS)
    with silence():  # discards the log messages of the runtime
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("step")

    def step(token: int, state: Floats) -> tuple[Floats, Floats]:
        outputs = runner(ids=np.array([token], np.int32), state=state[np.newaxis])
        return outputs["logits"][0], outputs["next_state"][0]

    return step, carried["keras_lstmgen"], carried["tokenizer"]


def metadata_buffers(data: bytes) -> dict[str, bytes]:
    """Read the metadata buffers of a TFLite file, which is a flatbuffer.

    The schema of TFLite defines these tables and the numbers of their fields. A Model has the fields ``buffers`` (4)
    and ``metadata`` (6). A Metadata has the fields ``name`` (0) and ``buffer`` (1), the number of a buffer. A Buffer
    has the field ``data`` (0), or ``offset`` (1) if its data is outside the flatbuffer.

    Args:
        data: content of the file.

    Returns:
        The content of each buffer by name.

    Raises:
        ValueError: if the file is damaged or not a TFLite file.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("it is not a TFLite file")
    try:
        model = _follow(data, 0)
        buffers = _tables(data, _field(data, model, 4))
        entries = _tables(data, _field(data, model, 6))
        return {_name(data, entry): _content(data, buffers[_buffer(data, entry)]) for entry in entries}
    except (struct.error, IndexError, UnicodeDecodeError):
        raise ValueError("it is damaged or truncated") from None


def _name(data: bytes, entry: int) -> str:
    """Return the name in a Metadata table."""
    return _bytes(data, _field(data, entry, 0)).decode()


def _buffer(data: bytes, entry: int) -> int:
    """Return the number of the buffer in a Metadata table."""
    field = _field(data, entry, 1)
    return _number(data, field) if field else 0  # in a flatbuffer, the number 0 may be omitted


def _content(data: bytes, buffer: int) -> bytes:
    """Return the data of a Buffer table."""
    if _field(data, buffer, 1):
        raise ValueError(
            "it stores its metadata outside the flatbuffer, like all files above 2 GB; this is not supported"
        )
    return _bytes(data, _field(data, buffer, 0))


def _field(data: bytes, table: int, number: int) -> int:
    """Return the position of a field of a table, or 0 if it is missing.

    A table begins with the distance to its vtable, which contains the offsets of the fields.
    """
    offsets = table - struct.unpack_from("<i", data, table)[0]
    at = 4 + 2 * number
    (size,) = struct.unpack_from("<H", data, offsets)
    (offset,) = struct.unpack_from("<H", data, offsets + at) if at < size else (0,)
    return table + offset if offset else 0


def _number(data: bytes, at: int) -> int:
    """Read a uint32."""
    return struct.unpack_from("<I", data, at)[0]


def _follow(data: bytes, at: int) -> int:
    """Return the position to which the offset at a position refers."""
    return at + _number(data, at)


def _tables(data: bytes, field: int) -> list[int]:
    """Return the positions of the tables in a vector, or an empty list if the field is missing."""
    if not field:
        return []
    vector = _follow(data, field)
    return [_follow(data, vector + 4 + 4 * i) for i in range(_number(data, vector))]


def _bytes(data: bytes, field: int) -> bytes:
    """Return the content of a vector of bytes or a string, or b"" if the field is missing."""
    if not field:
        return b""
    vector = _follow(data, field)
    (content,) = struct.unpack_from(f"{_number(data, vector)}s", data, vector + 4)
    return content


if __name__ == "__main__":
    sys.exit(main(load, "a TFLite file"))
