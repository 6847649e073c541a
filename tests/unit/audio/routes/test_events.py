"""Server-sent events of a transcript, and clients that go away.

Behaviours restated from the test suites of vLLM and gigaam-openai-api-server are marked with their origin.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import openai.types.audio as openai_types
import pytest

from serving.errors import InternalError, Overloaded, Unprocessable
from tests.unit.audio.routes.loopback import RECORDING, LoopbackPod, events, segment, strictly
from transformers_pre.audio.merge import Transcript, TranscriptSegment

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("response_format", ["json", "text"])
async def test_a_stream_says_what_the_answer_without_it_says(pod: LoopbackPod, response_format: Any) -> None:
    # As vLLM has it in test_streaming_response, and gigaam-openai-api-server: joined deltas = done = sync
    received = [event async for event in await pod.transcribe(stream=True, response_format=response_format)]
    *deltas, done = [strictly(openai_types.TranscriptionStreamEvent, event) for event in received]
    assert [event.type for event in deltas] == ["transcript.text.delta"] * 3
    assert "".join(event.delta for event in deltas) == done.text == (await pod.transcribe()).text
    assert done.type == "transcript.text.done"
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (61, 9, 70)
    assert await pod.leftovers() == []


async def test_the_bytes_of_a_stream(pod: LoopbackPod) -> None:
    response = await pod.post(stream="true")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-length" not in response.headers
    *deltas, done, end = events(response.text)
    assert [event["delta"] for event in deltas] == ["Hello there.", " Grüße!", " 你好 --> 5 < 6."]
    assert done["text"] == "Hello there. Grüße! 你好 --> 5 < 6."
    assert end == "data: [DONE]"


async def test_translations_stream_too(pod: LoopbackPod) -> None:
    response = await pod.post("/v1/audio/translations", stream="true")
    assert events(response.text)[-2]["text"] == "Hello there. Grüße! 你好 --> 5 < 6."
    assert pod.fake.requests[0].task == "translate"


async def test_a_delta_is_sent_as_soon_as_its_segment_is_final(pod: LoopbackPod) -> None:
    pod.fake.pauses_after = 1
    stream = aiter(await pod.transcribe(stream=True))
    assert (await anext(stream)).delta == "Hello there."
    assert pod.fake.paused.is_set()
    assert len(list(pod.spool.iterdir())) == 1  # the recording is still being read
    pod.fake.resume.set()
    assert [event.type async for event in stream][-1] == "transcript.text.done"
    await pod.fake.closed.wait()
    assert await pod.leftovers() == []


async def test_an_error_before_the_first_event_is_an_ordinary_error(pod: LoopbackPod) -> None:
    pod.fake.error = Overloaded("the queue is full, 8 wait", retry_after=2)
    with pytest.raises(openai.InternalServerError) as caught:
        await pod.transcribe(stream=True)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["retry-after"] == "2"
    assert await pod.leftovers() == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unprocessable("the audio is damaged after 4 s"), "the audio is damaged after 4 s"),
        (KeyError("secret"), InternalError.MESSAGE),
    ],
)
async def test_an_error_in_the_middle_is_the_last_event(pod: LoopbackPod, error: Exception, message: str) -> None:
    pod.fake.error, pod.fake.error_after = error, 2
    stream = await pod.transcribe(stream=True)
    assert [(await anext(stream)).delta for _ in range(2)] == ["Hello there.", " Grüße!"]
    with pytest.raises(openai.APIError) as caught:
        await anext(stream)
    assert caught.value.message == message

    response = await pod.post(stream="true")
    *_, last = events(response.text)
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in response.text
    assert "[DONE]" not in response.text
    assert await pod.leftovers() == []


async def test_deltas_that_do_not_make_the_text_end_in_an_error(
    pod: LoopbackPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod.fake, "stream", lambda *_: disagreeing())
    *deltas, last = events((await pod.post(stream="true")).text)
    assert [event["delta"] for event in deltas] == ["One."]
    assert last["error"]["code"] == "internal_error"


async def disagreeing() -> AsyncIterator[TranscriptSegment | Transcript]:
    one = segment(0, "One.", words=False)
    yield one
    yield Transcript(text="Two.", language="en", duration=2.0, task="transcribe", segments=[one])


@pytest.mark.parametrize(
    ("path", "stream", "pauses_after"),
    [
        ("/v1/audio/transcriptions", "false", 0),
        ("/v1/audio/transcriptions", "true", 0),
        ("/v1/audio/transcriptions", "true", 1),
        ("/transcribe", "false", 0),
    ],
)
async def test_a_client_that_goes_away_cancels_the_work(
    pod: LoopbackPod, path: str, stream: str, pauses_after: int
) -> None:
    # As in gigaam-openai-api-server, which logs such a request as 499
    pod.fake.pauses_after = pauses_after
    async with httpx.AsyncClient(base_url=pod.address, trust_env=False) as client:
        call = asyncio.create_task(client.post(path, files={"file": RECORDING}, data={"stream": stream}))
        await pod.fake.paused.wait()
        assert len(list(pod.spool.iterdir())) == 1
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await pod.fake.closed.wait()
    assert pod.fake.cancelled
    assert await pod.leftovers() == []
