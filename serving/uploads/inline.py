"""Files inside a V1 or V2 request: base64 in JSON, or the bytes of a tensor."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from serving.errors import InvalidInput
from serving.threads import pieces_of_base64
from serving.uploads.spool import Spool

_PIECE = 1 << 18  # bytes that are copied at a time


async def from_base64(text: str, max_bytes: int, param: str) -> BinaryIO:
    """The file that the field `param` holds as base64; the caller closes it.

    Raises:
        InvalidInput: not base64, or empty.
        TooLarge: more than `max_bytes` (MAX_UPLOAD_BYTES).
    """
    return await _spooled(_decoded(text, param), max_bytes, param)


async def from_bytes(data: bytes, max_bytes: int, param: str) -> BinaryIO:
    """The file that an element of the tensor `param` is; the caller closes it. Raises as `from_base64` does."""
    view = memoryview(data)
    return await _spooled((view[start : start + _PIECE] for start in range(0, len(view), _PIECE)), max_bytes, param)


async def _spooled(pieces: Iterable[bytes | memoryview], max_bytes: int, param: str) -> BinaryIO:
    with Spool(max_bytes, param) as file:
        await file.fill(pieces)
        return await file.finish()


def _decoded(text: str, param: str) -> Iterator[bytes]:
    try:
        yield from pieces_of_base64(text)
    except ValueError:
        raise InvalidInput(f"{param} is not base64", param=param) from None
