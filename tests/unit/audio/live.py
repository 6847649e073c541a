"""A live audio pod on a loopback socket, in the test's own process: real routes, transcriber and hop; the engine is a fake.

The predictor says one word a second of a window. What real engines make of live speech is tested in `tests/integration`.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI

from serving.auth import Keys
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrResult
from serving.errors import ServingError
from serving.known_predictor import KnownPredictor
from serving.middleware import Drain
from serving.predictor import Predictor
from serving.routes import BodyBudget, JsonLimit, protocol_router
from serving.server import Server, configuration, wrap
from serving.settings import PodSettings, PredictorSettings
from serving.testing import FakeRecognizer
from tests.streams import RATE, pcm16, streamed
from tests.synthesis import speak
from tests.unit.audio.limits import media_limits
from transformers_pre.audio.container_stream import ContainerPool
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.routes import realtime, streaming, vosk
from transformers_pre.audio.routes.live import LiveConnections
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber

SENTENCES = ("Good morning everybody.", "This is the second sentence.", "And here comes the last one.")
SPEECH = np.concatenate([part for text in SENTENCES for part in (speak(text), np.zeros(RATE, np.float32))])


class ScriptedRecognizer(FakeRecognizer):
    """The fake, unless a test says what it does instead."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[Sequence[AsrInput]], None] = lambda items: None
        self.lengths: list[int] = []

    def run(self, items: Sequence[AsrInput]) -> list[AsrResult | ServingError]:
        self.before(items)
        self.lengths += [len(item.samples) for item in items]
        return super().run(items)


class LivePod:
    """Both pods, and how to reach the transformer."""

    def __init__(self, port: int, engine: ScriptedRecognizer, transcriber: Transcriber, drain: Drain):
        self.address = f"127.0.0.1:{port}"
        self.engine = engine
        self.transcriber = transcriber
        self.drain = drain

    def url(self, path: str) -> str:
        return f"ws://{self.address}{path}"


@contextlib.asynccontextmanager
async def _serving(app: Any) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(configuration(app, PodSettings()))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def live_pod(keys: str = "", **changes: Any) -> AsyncIterator[LivePod]:
    """Both pods with these settings of the transformer, which the API keys open, if any."""
    engine = ScriptedRecognizer()
    predictor = Predictor(asr, engine, PredictorSettings(model_name="speech"))
    await predictor.start_up()
    app = FastAPI()
    app.include_router(protocol_router(predictor, JsonLimit(1 << 20, 1 << 20), BodyBudget(1 << 30)))
    settings = AudioSettings(model_name="speech", **{"url_allow": "127.0.0.1", **changes})
    drain = Drain()
    async with contextlib.AsyncExitStack() as stack:
        predictor_port = await stack.enter_async_context(_serving(wrap(app, {}, Keys(), Drain(), 1 << 30)))
        client = KnownPredictor(f"127.0.0.1:{predictor_port}", "speech", retry_seconds=settings.hop_retry_seconds)
        stack.push_async_callback(client.close)
        media = await stack.enter_async_context(DecoderPool(media_limits(workers=1)))
        transcriber = Transcriber(client, media, settings)
        connections = LiveConnections(settings, drain)
        public = FastAPI()
        containers = await stack.enter_async_context(ContainerPool(settings.stream_decoders, settings.media_limits()))
        bodies = BodyBudget(settings.max_bodies_bytes)
        public.include_router(streaming.router(transcriber, settings, connections, containers, bodies))
        public.include_router(vosk.router(transcriber, settings, connections, containers))
        public.include_router(realtime.router(transcriber, settings, connections))
        dialects = dict.fromkeys(streaming.PREFIXES, streaming.error_body)
        port = await stack.enter_async_context(_serving(wrap(public, dialects, Keys(keys), drain, 1 << 30)))
        yield LivePod(port, engine, transcriber, drain)
    await predictor.shut_down()


async def heard(pod: LivePod, samples: np.ndarray, size: int = 3200, **config: Any) -> list[dict[str, Any]]:
    """The answers of `/ws` to samples of 16 bits, in messages of `size` bytes."""
    return await streamed(pod.url("/ws"), pcm16(samples), size, **config)
