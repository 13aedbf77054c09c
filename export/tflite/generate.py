"""Write text with a TFLite file: needs numpy and ai-edge-litert.

python export/tflite/generate.py model.tflite --prompt "Once" --seed 1
"""

import struct
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

sys.path.append(str(Path(__file__).resolve().parents[2]))  # what holds export/, last: it hides no module
from export.client import THREADS, main, silence
from export.contract import Floats, Step

sys.path.pop()


def load(path: Path) -> tuple[Step, bytes, bytes]:
    """Open the signature ``step``, and take the JSON and the tokenizer out of the file's metadata buffers."""
    carried = metadata_buffers(path.read_bytes())
    if not carried.keys() >= {"keras_lstmgen", "tokenizer"}:
        raise ValueError("it carries no metadata 'keras_lstmgen' and 'tokenizer'")
    interpreter = Interpreter(str(path), num_threads=THREADS)
    with silence():  # it says which delegate it takes
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("step")

    def step(token: int, state: Floats) -> tuple[Floats, Floats]:
        outputs = runner(ids=np.array([token], np.int32), state=state[np.newaxis])
        return outputs["logits"][0], outputs["next_state"][0]

    return step, carried["keras_lstmgen"], carried["tokenizer"]


def metadata_buffers(data: bytes) -> dict[str, bytes]:
    """The named buffers of a TFLite file, ``{name: bytes}``, read from the flatbuffer itself.

    By TFLite's schema a Model has ``buffers`` as field 4 and ``metadata`` as field 6; a Metadata has ``name``
    (0) and the number of its ``buffer`` (1); a Buffer has ``data`` (0), or ``offset`` (1) into the file.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("it is not a TFLite file")
    try:
        model = _follow(data, 0)
        buffers = _tables(data, _field(data, model, 4))
        entries = _tables(data, _field(data, model, 6))
        return {_name(data, entry): _content(data, buffers[_buffer(data, entry)]) for entry in entries}
    except (struct.error, IndexError, UnicodeDecodeError):
        raise ValueError("it is damaged or cut short") from None


def _name(data: bytes, entry: int) -> str:
    return _bytes(data, _field(data, entry, 0)).decode()


def _buffer(data: bytes, entry: int) -> int:
    field = _field(data, entry, 1)
    return _number(data, field) if field else 0  # a number left out is 0


def _content(data: bytes, buffer: int) -> bytes:
    if _field(data, buffer, 1):
        raise ValueError(
            "it keeps buffers outside the flatbuffer, as files above 2 GB do; this client cannot read that"
        )
    return _bytes(data, _field(data, buffer, 0))


def _field(data: bytes, table: int, number: int) -> int:
    """Where a table keeps a field, 0 if it has none. A table begins with the way back to its offsets."""
    offsets = table - struct.unpack_from("<i", data, table)[0]
    at = 4 + 2 * number
    (size,) = struct.unpack_from("<H", data, offsets)
    (offset,) = struct.unpack_from("<H", data, offsets + at) if at < size else (0,)
    return table + offset if offset else 0


def _number(data: bytes, at: int) -> int:
    return struct.unpack_from("<I", data, at)[0]


def _follow(data: bytes, at: int) -> int:
    return at + _number(data, at)


def _tables(data: bytes, field: int) -> list[int]:
    """Where the tables of a vector begin."""
    if not field:
        return []
    vector = _follow(data, field)
    return [_follow(data, vector + 4 + 4 * i) for i in range(_number(data, vector))]


def _bytes(data: bytes, field: int) -> bytes:
    """The content of a vector of bytes, or of a string."""
    if not field:
        return b""
    vector = _follow(data, field)
    (content,) = struct.unpack_from(f"{_number(data, vector)}s", data, vector + 4)
    return content


if __name__ == "__main__":
    sys.exit(main(load, "a TFLite file"))
