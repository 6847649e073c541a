"""The captioning routes in this process: real decoders, middleware and error bodies, before a fake engine."""

import base64
import io
import wave
from collections.abc import AsyncIterator, Mapping

import httpx
import numpy as np
import openai
import pytest_asyncio
from fastapi import FastAPI
from kserve import InferRequest, InferResponse

from serving.auth import Keys
from serving.contracts import caption
from serving.contracts.caption import CaptionOptions, CaptionResult
from serving.deadline import Deadline
from serving.dialects import openai_body
from serving.errors import ServingError
from serving.known_predictor import KnownPredictor
from serving.middleware import Drain
from serving.routes import BodyBudget, JsonLimit, protocol_router
from serving.server import wrap
from serving.testing import FakeCaptioner
from transformers_pre.audio.caption.describer import Describer
from transformers_pre.audio.caption.model import CaptionTransformer
from transformers_pre.audio.caption.routes import chat, service
from transformers_pre.audio.caption.routes.limits import CaptionLimits
from transformers_pre.audio.caption.settings import CaptionSettings
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.routes import recording_limits

LIMIT = 4 << 20


class FakePredictor(KnownPredictor):
    """The hop without a network: the contract's fake answers, and what it was asked is kept."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1", "sounds")
        self.asked: list[CaptionOptions] = []
        self.seconds: list[float] = []
        self.error: ServingError | None = None

    async def infer(self, request: InferRequest, headers: Mapping[str, str], deadline: Deadline) -> InferResponse:
        items = caption.read_request(request)
        self.asked += [item.options for item in items]
        self.seconds += [len(item.samples) / item.options.sample_rate for item in items]
        if self.error is not None:
            raise self.error
        results = [result for result in FakeCaptioner().run(items) if isinstance(result, CaptionResult)]
        return caption.write_response(results, request, "sounds")


class Pod:
    """The app and clients for it."""

    def __init__(self, app: object, predictor: FakePredictor, bodies: BodyBudget):
        self.predictor = predictor
        self.bodies = bodies
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # wrapped apps are ASGI
        self.http = httpx.AsyncClient(transport=transport, base_url="http://pod", timeout=60)
        self.openai = openai.AsyncOpenAI(api_key="none", base_url="http://pod/v1", http_client=self.http, max_retries=0)


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """16-bit mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def sound(seconds: float) -> bytes:
    """Noise."""
    return wav(0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16_000)))


def silence(seconds: float) -> bytes:
    """Zeros."""
    return wav(np.zeros(round(seconds * 16_000)))


def b64(data: bytes) -> str:
    """As JSON carries it."""
    return base64.b64encode(data).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Pod]:
    settings = CaptionSettings(
        model_name="sounds", max_upload_bytes=LIMIT, max_audio_seconds=100, decode_workers=2, decode_queue=62
    )
    predictor, media = FakePredictor(), DecoderPool(settings.media_limits())
    describer = Describer(predictor, media, settings)
    model = CaptionTransformer(describer, predictor, media, settings)
    await media.start()
    model.ready = True
    app, bodies = FastAPI(), BodyBudget(settings.max_bodies_bytes)
    limits = recording_limits.router(CaptionLimits.model_validate(settings))
    for router in (
        service.router(describer, settings, bodies),
        chat.router(describer, settings, bodies, lambda: True),
        limits,
    ):
        app.include_router(router)
    app.include_router(protocol_router(model, JsonLimit(settings.max_json_bytes, settings.max_json_values), bodies))
    dialects = dict.fromkeys(chat.PREFIXES, openai_body) | dict.fromkeys(service.PREFIXES, service.error_body)
    pod = Pod(wrap(app, dialects, Keys(), Drain(), settings.max_body_bytes), predictor, bodies)
    yield pod
    await pod.http.aclose()
    await media.close()
    await predictor.close()


@pytest_asyncio.fixture(loop_scope="module")
async def pod(served: Pod) -> Pod:
    """The pod, with nothing asked yet."""
    served.predictor.asked, served.predictor.seconds, served.predictor.error = [], [], None
    return served
