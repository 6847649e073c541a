"""Work beside the event loop: what is cancelled is waited for, base64 is read in pieces."""

import asyncio
import base64
import gc
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.threads import from_base64, in_thread, pieces_of_base64


async def test_in_thread_gives_what_the_call_gives_and_runs_beside_the_event_loop() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def cancelled_at_work(then: Callable[[], None]) -> None:
    """A call whose caller is cancelled while it is at work; what it does `then`, once that is done."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        then()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_cancelled_has_ended_when_the_caller_goes_on() -> None:
    ended = threading.Event()
    await cancelled_at_work(ended.set)
    assert ended.is_set()


def fail() -> None:
    raise ValueError


async def test_what_fails_after_its_caller_was_cancelled_is_not_logged_by_asyncio() -> None:
    """As when one worker's message ends a study while another's is read."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await cancelled_at_work(fail)
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


@given(st.binary(max_size=100), st.integers(1, 9))
def test_base64_is_read_whatever_white_space_it_holds(data: bytes, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = "\r\n".join(text[start : start + width] for start in range(0, len(text), width))
    assert from_base64(text) == from_base64(lines) == data


def test_base64_comes_in_pieces_of_at_most_256_ki_characters() -> None:
    data = bytes(range(256)) * 4096
    pieces = list(pieces_of_base64("\n" + base64.b64encode(data).decode()))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= (1 << 18) * 3 // 4


@pytest.mark.parametrize("text", ["a", "ab=", "!", "YWJj=YWJj", "YQ==YQ==", "YWJ\u00e9", "YWJj" * 70_000 + "!"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_base64(text)
