"""What OpenAI's routes refuse, and how errors look to the stock client.

Behaviours restated from the test suites of vLLM and gigaam-openai-api-server are marked with their origin.
"""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from serving.errors import InternalError, InvalidInput, Overloaded, ServingError, TooLarge, Unprocessable
from tests.unit.audio.routes.loopback import LIMIT, RECORDING, LoopbackPod

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "stream": True}, "stream"),
        ({"response_format": "verbose_json", "stream": True}, "stream"),
        ({"response_format": "verbose_json", "timestamp_granularities": ["foo"]}, "timestamp_granularities[]"),
        ({"temperature": 3}, "temperature"),
        ({"language": "no such language"}, "language"),
        ({"include": ["logprobs"]}, "include[]"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 0.5}}, "chunking_strategy"),
        ({"extra_body": {"beam_size": 1000}}, "beam_size"),
    ],
)
async def test_what_is_not_supported_is_a_bad_request_that_names_the_field(
    pod: LoopbackPod, fields: dict[str, Any], param: str
) -> None:
    # As vLLM has it in test_bad_requests; litellm#14943
    with pytest.raises(openai.BadRequestError) as caught:
        await pod.transcribe(**fields)
    assert caught.value.param.partition("[type]")[0].partition("[threshold]")[0] == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == "unsupported_value" or param == "include[]"
    assert pod.fake.requests == []
    assert await pod.leftovers() == 0


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
async def test_a_missing_recording(pod: LoopbackPod, path: str) -> None:
    # As gigaam-openai-api-server has it in tests/unit/test_transcriptions_api.py
    response = await pod.http.post(path, data={"model": "whisper-1"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file"
    response = await pod.post(path, files={"other": ("a.txt", b"")})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "missing_file")


async def test_several_recordings(pod: LoopbackPod) -> None:
    response = await pod.post(files=[("file", ("a.wav", RECORDING)), ("file", ("b.wav", RECORDING))])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "several_files")
    assert await pod.leftovers() == 0


async def test_an_empty_recording(pod: LoopbackPod) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await pod.openai.audio.transcriptions.create(file=("a.wav", b""), model="whisper-1")
    assert (caught.value.param, caught.value.code) == ("file", "empty_file")


@pytest.mark.parametrize("megabytes", [1.01, 5, 40])
async def test_a_recording_over_the_limit(pod: LoopbackPod, megabytes: float) -> None:
    # As vLLM has it in tests/entrypoints/speech_to_text/test_upload_size_limit.py; gigaam-openai-api-server: 413
    with pytest.raises(openai.APIStatusError) as caught:
        await pod.openai.audio.transcriptions.create(file=("a.wav", bytes(int(megabytes * LIMIT))), model="whisper-1")
    assert (caught.value.status_code, caught.value.param, caught.value.code) == (413, "file", "file_too_large")
    assert f"{LIMIT} bytes (1 MiB)" in caught.value.message
    assert pod.fake.requests == []
    assert await pod.leftovers() == 0


async def test_a_recording_of_unknown_length_over_the_limit(pod: LoopbackPod) -> None:
    request = pod.http.build_request("POST", "/v1/audio/transcriptions", files={"file": bytes(5 * LIMIT)})
    body = request.read()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    headers = {"content-type": request.headers["content-type"]}
    response = await pod.http.post("/v1/audio/transcriptions", content=pieces(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")
    assert await pod.leftovers() == 0


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (InvalidInput("the audio is not readable", param="file", code="bad_audio"), openai.BadRequestError, 400),
        (TooLarge("the audio is longer than 600 s", param="file", code="audio_too_long"), openai.APIStatusError, 413),
        (Unprocessable("the audio is damaged"), openai.UnprocessableEntityError, 422),
        (TimeoutError(), openai.InternalServerError, 504),
        (Overloaded("the queue is full"), openai.InternalServerError, 503),
    ],
)
async def test_errors_are_openais(
    pod: LoopbackPod, error: Exception, kind: type[openai.APIStatusError], status: int
) -> None:
    pod.fake.error = error
    with pytest.raises(kind) as caught:
        await pod.transcribe()
    assert caught.value.status_code == status
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert caught.value.response.headers["x-request-id"]
    if isinstance(error, ServingError):
        assert (caught.value.code, caught.value.param) == (error.code, error.param)
    assert await pod.leftovers() == 0


async def test_what_is_unexpected_stays_inside(pod: LoopbackPod) -> None:
    pod.fake.error = RuntimeError("/secret/path")
    with pytest.raises(openai.InternalServerError) as caught:
        await pod.transcribe()
    assert (caught.value.status_code, caught.value.body["message"]) == (500, InternalError.MESSAGE)
    assert await pod.leftovers() == 0


async def test_routes_of_other_modalities_are_not_found(pod: LoopbackPod) -> None:
    # As vLLM has it in test_completion_endpoints
    with pytest.raises(openai.NotFoundError):
        await pod.openai.chat.completions.create(model="speech", messages=[{"role": "user", "content": "Hi"}])
