"""What an ONNX file says of itself, read without loading it: its metadata.

sherpa-onnx ends the process where a value is missing, so it is looked at first. An ONNX file is a protobuf message; its metadata
are the pairs of field 14 (onnx.proto, ModelProto.metadata_props), and all else is skipped over.
"""

import os
from pathlib import Path
from typing import BinaryIO

_METADATA, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST = 1 << 20  # bytes of one pair


def metadata(file: Path) -> dict[str, str]:
    """The pairs of a model. Raises ValueError when the file is no ONNX model, or not whole."""
    found: dict[str, str] = {}
    size = file.stat().st_size
    try:
        with file.open("rb") as data:
            while data.tell() < size:
                field, kind = divmod(_varint(data), 8)
                if kind == _BYTES:
                    length = _varint(data)
                    if data.tell() + length > size:
                        raise EOFError
                    if field == _METADATA and length <= _LONGEST:
                        name, value = _pair(data.read(length))
                        found[name] = value
                    else:
                        data.seek(length, os.SEEK_CUR)
                elif kind == _VARINT:
                    _varint(data)
                elif kind in (_FIXED64, _FIXED32):
                    data.seek(8 if kind == _FIXED64 else 4, os.SEEK_CUR)
                else:
                    raise EOFError
    except (EOFError, UnicodeDecodeError, IndexError):
        raise ValueError(f"{file.name} is no ONNX model, or is cut off") from None
    if not size:
        raise ValueError(f"{file.name} is empty")
    return found


def _varint(data: BinaryIO) -> int:
    value, shift = 0, 0
    while True:
        byte = data.read(1)
        if not byte or shift > 63:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _pair(message: bytes) -> tuple[str, str]:
    texts = {_KEY: "", _VALUE: ""}
    position = 0
    while position < len(message):
        field, length = message[position] >> 3, message[position + 1]
        position += 2
        if length & 0x80:  # a longer varint
            length &= 0x7F
            shift = 7
            while True:
                byte = message[position]
                position += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        texts[field] = message[position : position + length].decode()
        position += length
    return texts[_KEY], texts[_VALUE]
