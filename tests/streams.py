"""Live audio as clients send it, by the stock `websockets` client, to pods of any kind. No assertions."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import openai
import websockets

RATE = 16_000
EOF = '{"eof" : 1}'


def pcm16(samples: np.ndarray) -> bytes:
    """Samples as little-endian 16-bit integers."""
    return (samples * 32767).astype("<i2").tobytes()


def chunk(samples: np.ndarray) -> str:
    """The same as base64, for OpenAI's events."""
    return base64.b64encode(pcm16(samples)).decode()


@contextlib.asynccontextmanager
async def connected(url: str, config: dict[str, Any] | None = None) -> AsyncIterator[Any]:
    """A connection that has sent its configuration, if any."""
    # The server reads no pings while it has enough to do, and these clients send far faster than anybody speaks.
    async with websockets.connect(url, max_size=None, proxy=None, ping_timeout=None) as socket:
        if config is not None:
            await socket.send(json.dumps({"config": config}))
        yield socket


async def send(socket: Any, data: bytes, size: int = 3200) -> None:
    """All of `data`, in messages of `size` bytes."""
    for start in range(0, len(data), size):
        await socket.send(data[start : start + size])


async def answers(socket: Any) -> list[dict[str, Any]]:
    """Everything until the server closes, with whatever code."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            found.append(json.loads(await socket.recv()))
    return found


async def streamed(url: str, data: bytes, size: int = 3200, **config: Any) -> list[dict[str, Any]]:
    """The answers of `/ws` to a whole stream, which is sent as fast as it is taken."""
    async with connected(url, {"sample_rate": RATE, "wait_null_answers": False, **config}) as socket:
        reading = asyncio.create_task(answers(socket))
        with contextlib.suppress(websockets.ConnectionClosed):  # what was wrong, the answers say
            await send(socket, data, size)
            await socket.send(EOF)
        return await reading


async def vosk_answers(url: str, data: bytes, size: int = 6400, **config: Any) -> list[dict[str, Any]]:
    """The answers of `/vosk`, one a message, by a client that waits for each."""
    async with connected(url, {"sample_rate": RATE, **config}) as socket:
        found = []
        for start in range(0, len(data), size):
            await socket.send(data[start : start + size])
            found.append(json.loads(await socket.recv()))
        await socket.send(EOF)
        return found + await answers(socket)


def realtime(url: str) -> Any:
    """The stock client's connection to `/v1/realtime` of the service at `url`."""
    client = openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1")
    return client.realtime.connect(extra_query={"intent": "transcription"})
