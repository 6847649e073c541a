"""The Whisper service's two routes, and the description of all routes."""

import pytest

from serving.errors import InternalError
from tests.unit.audio.routes.loopback import LIMIT, LoopbackPod

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_transcribe(pod: LoopbackPod) -> None:
    response = await pod.post("/transcribe", language="auto", temperature="0.2", beam_size="5", best_of="5")
    assert response.json() == {
        "success": True,
        "text": "Hello there. Grüße! 你好 --> 5 < 6.",
        "language": "de",
        "segments_count": 3,
    }
    (request,) = pod.fake.requests
    assert (request.language, request.temperature, request.beam_size, request.best_of) == (None, 0.2, 5, 5)
    assert await pod.leftovers() == 0


async def test_transcribe_in_a_given_language(pod: LoopbackPod) -> None:
    assert (await pod.post("/transcribe", language="ru")).json()["language"] == "ru"


async def test_transcribe_silence(pod: LoopbackPod) -> None:
    pod.fake.texts = []
    answer = (await pod.post("/transcribe")).json()
    assert answer == {"success": True, "text": "", "language": None, "segments_count": 0}


async def test_transcribe_simple(pod: LoopbackPod) -> None:
    assert (await pod.post("/transcribe_simple")).json() == {"text": "Hello there. Grüße! 你好 --> 5 < 6."}


@pytest.mark.parametrize("path", ["/transcribe", "/transcribe_simple"])
async def test_errors_of_the_whisper_service_have_its_shape(pod: LoopbackPod, path: str) -> None:
    refused = await pod.post(path, beam_size="1000")
    assert refused.status_code == 400
    assert refused.json() == {
        "success": False,
        "error": "beam_size: Input should be less than or equal to 20 (got '1000')",
    }
    assert (await pod.http.post(path)).status_code == 400
    large = await pod.post(path, files={"file": bytes(LIMIT + 1)})
    assert (large.status_code, large.json()["success"]) == (413, False)
    pod.fake.error = RuntimeError("/secret/path")
    failed = await pod.post(path)
    assert (failed.status_code, failed.json()) == (500, {"success": False, "error": InternalError.MESSAGE})
    assert await pod.leftovers() == 0


async def test_the_routes_are_described(pod: LoopbackPod) -> None:
    paths = (await pod.http.get("/openapi.json")).json()["paths"]
    assert {"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/models", "/transcribe"} <= set(paths)
    assert not any(path.startswith("/openai") for path in paths)
    form = paths["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert "response_format" in form["properties"]
