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
    assert await pod.leftovers() == 0


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
    assert pod.recordings() == 1  # the recording is still being read
    pod.fake.resume.set()
    assert [event.type async for event in stream][-1] == "transcript.text.done"
    await pod.fake.closed.wait()
    assert await pod.leftovers() == 0


async def test_an_error_before_the_first_event_is_an_ordinary_error(pod: LoopbackPod) -> None:
    pod.fake.error = Overloaded("the queue is full, 8 wait", retry_after=2)
    with pytest.raises(openai.InternalServerError) as caught:
        await pod.transcribe(stream=True)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["retry-after"] == "2"
    assert await pod.leftovers() == 0


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
    assert await pod.leftovers() == 0


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


# --- while there is nothing to send ---


@pytest.fixture
def impatient(pod: LoopbackPod, monkeypatch: pytest.MonkeyPatch) -> LoopbackPod:
    """The pod, with comments after 20 ms."""
    monkeypatch.setattr(pod.settings, "stream_keep_alive_seconds", 0.02)
    return pod


@pytest.mark.parametrize("pauses_after", [0, 1, 3])
async def test_comments_keep_a_stream_alive_that_has_nothing_to_say(impatient: LoopbackPod, pauses_after: int) -> None:
    impatient.fake.pauses_after = pauses_after
    async with impatient.http.stream(
        "POST", "/v1/audio/transcriptions", files={"file": RECORDING}, data={"stream": "true"}
    ) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = response.aiter_lines()
        before = [await anext(lines) for _ in range(2 * pauses_after)]
        comments = [await anext(lines) for _ in range(6)]
        assert not any(line.startswith(":") for line in before)
        assert comments == [": keep-alive", ""] * 3
        impatient.fake.resume.set()
        after = [line async for line in lines]
    events_after = [line for line in after if line.startswith("data: ")]
    assert len(events_after) == 3 - pauses_after + 2
    assert events_after[-1] == "data: [DONE]"


async def test_the_stock_client_does_not_see_the_comments(impatient: LoopbackPod) -> None:
    impatient.fake.pauses_after = 0
    stream = await impatient.transcribe(stream=True)  # its status comes with the first comment
    raw = stream.response
    assert raw.status_code == 200
    assert impatient.fake.paused.is_set()
    impatient.fake.resume.set()
    *deltas, done = [strictly(openai_types.TranscriptionStreamEvent, event) async for event in stream]
    assert "".join(event.delta for event in deltas) == done.text == "Hello there. Grüße! 你好 --> 5 < 6."
    assert await impatient.leftovers() == 0


async def test_an_error_after_a_comment_is_an_event(impatient: LoopbackPod) -> None:
    impatient.fake.pauses_after, impatient.fake.error_after = 0, 0
    impatient.fake.error = Overloaded("the queue is full, 8 wait")
    stream = await impatient.transcribe(stream=True)
    impatient.fake.resume.set()
    with pytest.raises(openai.APIError) as caught:
        [event async for event in stream]
    assert (caught.value.message, caught.value.code) == ("the queue is full, 8 wait", "overloaded")
    assert await impatient.leftovers() == 0


async def test_a_client_that_goes_away_after_a_comment_cancels_the_work(impatient: LoopbackPod) -> None:
    impatient.fake.pauses_after = 0
    async with (
        httpx.AsyncClient(base_url=impatient.address, trust_env=False) as client,
        client.stream(
            "POST", "/v1/audio/transcriptions", files={"file": RECORDING}, data={"stream": "true"}
        ) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        assert impatient.recordings() == 1
    await impatient.fake.closed.wait()
    assert impatient.fake.cancelled
    assert await impatient.leftovers() == 0


async def test_there_are_no_comments_between_events_that_come_soon(pod: LoopbackPod) -> None:
    assert pod.settings.stream_keep_alive_seconds == 15.0
    assert ": keep-alive" not in (await pod.post(stream="true")).text


# --- clients that go away ---


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
        assert pod.recordings() == 1
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await pod.fake.closed.wait()
    assert pod.fake.cancelled
    assert await pod.leftovers() == 0
