"""Hundreds of live connections, dropped without a word: the transformer's memory is what it was."""

import asyncio
import contextlib
from typing import Any

import psutil
import pytest
import websockets

from tests.russian import sentences
from tests.services import Service, kaldi
from tests.streams import RATE, connected, pcm16, send

CONNECTIONS = 500
SPEECH = sentences(1, seed=2)[1][0][: 2 * RATE]
WHILE_OPEN_MB, AFTERWARDS_MB = 250, 25


async def opened_and_dropped(service: Service) -> float:
    """The transformer's memory in MB while all connections hold speech; they are gone when this returns."""
    seconds = service.transformer.metric("sonotome_audio_seconds_total")
    wanted = seconds + CONNECTIONS * (len(SPEECH) / RATE - 0.5)
    some = asyncio.Semaphore(50)  # handshakes at a time
    async with contextlib.AsyncExitStack() as stack:

        async def speak() -> Any:
            async with some:
                url = f"{service.live_url}/ws"
                socket = await stack.enter_async_context(connected(url, {"sample_rate": RATE}))
                await send(socket, pcm16(SPEECH), 16_000)
                return socket

        sockets = await asyncio.gather(*(speak() for _ in range(CONNECTIONS)))
        await asyncio.to_thread(
            service.transformer.until,
            lambda: service.transformer.metric("sonotome_audio_seconds_total") >= wanted,
            "all of the speech",
            120,
        )
        held = memory_mb(service)
        for socket in sockets:
            socket.transport.abort()
        with contextlib.suppress(websockets.ConnectionClosed):
            await stack.aclose()
    await asyncio.to_thread(service.transformer.until_in_flight, 0)
    return held


def memory_mb(service: Service) -> float:
    return float(psutil.Process(service.transformer.process.pid).memory_info().rss) / 1e6


@pytest.fixture
def service() -> Any:
    with kaldi(stream_max_connections=CONNECTIONS, stream_partial_seconds=0) as running:
        yield running


async def test_dropped_connections_leave_no_memory_behind(service: Service) -> None:
    for _ in range(3):
        await opened_and_dropped(service)  # libraries are loaded, pools filled
    before = memory_mb(service)
    for _ in range(2):
        held = await opened_and_dropped(service)
        assert held - before < WHILE_OPEN_MB
    assert memory_mb(service) - before < AFTERWARDS_MB
