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
from serving.server import Server, wrap
from tests.unit.dicom.routes.loopback import JSON_LIMIT, LIMIT, CtLoopback, FakePredictor
from transformers_pre.dicom import answers
from transformers_pre.dicom.pipeline import Pipeline
from transformers_pre.dicom.reader import StudyReader
from transformers_pre.dicom.routes import limits, predict
from transformers_pre.dicom.settings import DicomSettings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CtLoopback]:
    predictor = FakePredictor()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("uploads")))
        settings = DicomSettings(
            model_name="ct", max_upload_bytes=LIMIT, max_form_files=30, decode_workers=1, study_volumes=1, study_queue=3,
            max_json_bytes=JSON_LIMIT, max_instances=2, explain_findings=1, url_allow="127.0.0.1", dicomweb=True,
        )  # fmt: skip
        async with StudyReader(settings.study_limits()) as reader:
            pod = CtLoopback(f"http://127.0.0.1:{listener.getsockname()[1]}", predictor, reader, settings)
            pipeline = Pipeline(predictor, reader, request_seconds=240, max_overlays=settings.explain_findings)
            app = FastAPI()
            app.include_router(predict.router(pipeline, settings, pod.bodies))
            app.include_router(limits.router(settings))
            dialects = dict.fromkeys(predict.PREFIXES, answers.failure)
            wrapped = wrap(app, dialects, Keys(), pod.drain, 1 << 30)
            config = uvicorn.Config(wrapped, log_config=None, lifespan="off", timeout_graceful_shutdown=5)
            uvicorn_server = Server(config)
            serving = asyncio.create_task(uvicorn_server.serve(sockets=[listener]))
            async with pod.http:
                yield pod
            uvicorn_server.should_exit = True
            await serving


@pytest.fixture
def pod(server: CtLoopback) -> CtLoopback:
    server.fake.reset()
    return server
