"""One server for the tests of a module, a fresh fake for each test."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI

from serving.auth import Keys
from serving.dialects import openai_body
from serving.server import Server, wrap
from tests.unit.audio.routes.loopback import LIMIT, FakeTranscriber, LoopbackPod
from transformers_pre.audio.routes import openai as openai_routes
from transformers_pre.audio.routes import whisper_service
from transformers_pre.audio.settings import AudioSettings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoopbackPod]:
    transcriber = FakeTranscriber()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("NO_PROXY", "127.0.0.1")
        settings = AudioSettings(model_name="speech", max_upload_bytes=LIMIT)
        pod = LoopbackPod(f"http://127.0.0.1:{listener.getsockname()[1]}", transcriber, settings)
        app = FastAPI()
        app.include_router(openai_routes.router(transcriber, settings, lambda: pod.ready))
        app.include_router(whisper_service.router(transcriber, settings))
        dialects = dict.fromkeys(openai_routes.PREFIXES, openai_body)
        dialects |= dict.fromkeys(whisper_service.PREFIXES, whisper_service.error_body)
        wrapped = wrap(app, dialects, Keys(), pod.drain, 1 << 30)
        uvicorn_server = Server(uvicorn.Config(wrapped, log_config=None, lifespan="off", timeout_graceful_shutdown=5))
        serving = asyncio.create_task(uvicorn_server.serve(sockets=[listener]))
        async with pod.http, pod.openai:
            yield pod
        uvicorn_server.should_exit = True
        await serving


@pytest.fixture
def pod(server: LoopbackPod) -> LoopbackPod:
    server.fake.reset()
    server.ready = True
    return server
