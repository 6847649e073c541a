"""What would hold the event loop, in a thread: parsing, conversion of lists, looks through whole tensors, files.

Not for engines, whose calls `serving.batching` makes.
"""

import asyncio
import base64
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_PIECE = 1 << 18  # characters of base64 that are decoded at a time: Python's lock is held for a millisecond
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoding")


async def in_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `call` gives, in a thread beside others: for work that leaves Python's lock free, on files or in libraries.

    Ends with it, also when cancelled: what it works with is then free for others.
    """
    running = asyncio.create_task(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # told to nobody where the caller was cancelled, and so asyncio would log it


async def in_turn(call: Callable[[], R]) -> R:
    """What `call` gives, in the one thread for it, after those that came before.

    One at a time: JSON and lists hold Python's lock while they are read, and the event loop then waits for one of them
    at most. Several threads would hand the lock to each other and leave the loop out.
    """
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_THREAD, context.run, call)


def pieces_of_base64(text: str) -> Iterator[bytes]:
    """What `text` stands for, piece by piece, for a thread: between two of them Python's lock is free.

    White space counts for nothing. Raises ValueError for what is not base64.
    """
    if "=" in text.rstrip("= \t\r\n"):
        raise ValueError("padding that is followed by more")
    rest = ""
    for start in range(0, len(text), _PIECE):
        piece = rest + "".join(text[start : start + _PIECE].split())
        whole = len(piece) // 4 * 4
        yield base64.b64decode(piece[:whole], validate=True)
        rest = piece[whole:]
    yield base64.b64decode(rest, validate=True)


def from_base64(text: str) -> bytes:
    """`pieces_of_base64` joined. Raises ValueError."""
    return b"".join(pieces_of_base64(text))
