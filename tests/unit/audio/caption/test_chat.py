"""`/v1/chat/completions` by the stock `openai` client: what it answers, streamed and not, and what is refused."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from serving.errors import Overloaded
from tests.unit.audio.caption.conftest import Pod, b64, silence, sound

pytestmark = pytest.mark.asyncio(loop_scope="module")
TWO = "a sound of 2 seconds"


def messages(*recordings: bytes) -> Any:
    parts = [{"type": "input_audio", "input_audio": {"data": b64(each), "format": "wav"}} for each in recordings]
    return [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]},
    ]


async def ask(pod: Pod, *recordings: bytes, **fields: Any) -> Any:
    return await pod.openai.chat.completions.create(model="gpt-audio", messages=messages(*recordings), **fields)


def strictly(kind: Any, value: Any) -> Any:
    """The client builds its types without validating, so answers are validated here."""
    return TypeAdapter(kind).validate_python(value.model_dump(exclude_unset=True))


async def streamed(pod: Pod, *recordings: bytes, **fields: Any) -> list[ChatCompletionChunk]:
    return [strictly(ChatCompletionChunk, chunk) async for chunk in await ask(pod, *recordings, stream=True, **fields)]


def texts(chunks: list[ChatCompletionChunk]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            found[choice.index] = found.get(choice.index, "") + (choice.delta.content or "")
    return found


async def test_a_caption_as_a_chat(pod: Pod) -> None:
    read = strictly(ChatCompletion, await ask(pod, sound(2)))
    (choice,) = read.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (TWO, "assistant", "stop")
    assert (read.object, read.model) == ("chat.completion", "sounds")


async def test_choices_are_captions(pod: Pod) -> None:
    read = strictly(ChatCompletion, await ask(pod, sound(2), n=3, temperature=0.5, max_tokens=5000))
    assert [choice.message.content for choice in read.choices] == [TWO, f"{TWO} again", f"{TWO} again again"]
    (options,) = pod.predictor.asked
    assert (options.num_captions, options.temperature, options.max_tokens) == (3, 0.5, 200)
    await ask(pod, sound(2), max_completion_tokens=7, extra_body={"style": "audioset"})
    assert (pod.predictor.asked[-1].max_tokens, pod.predictor.asked[-1].style) == (7, "audioset")


@pytest.mark.parametrize("summary", ["best", "joined"])
@pytest.mark.parametrize(("max_tokens", "reason"), [(2, "length"), (5, "stop")])
async def test_a_caption_that_is_cut_off_is_told(pod: Pod, max_tokens: int, reason: str, summary: str) -> None:
    asked: dict[str, Any] = {"max_tokens": max_tokens, "extra_body": {"summary": summary}}
    (choice,) = strictly(ChatCompletion, await ask(pod, sound(40), **asked)).choices
    assert choice.finish_reason == reason
    assert (await streamed(pod, sound(40), **asked))[-1].choices[0].finish_reason == reason


async def test_silence_has_no_content(pod: Pod) -> None:
    read = strictly(ChatCompletion, await ask(pod, silence(2)))
    assert (read.choices[0].message.content, read.model_extra) == (None, {"silence": True})
    chunks = await streamed(pod, silence(2))
    assert texts(chunks) == {0: ""}
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (chunks[-1].model_extra or {})["silence"] is True


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"extra_body": {"summary": "joined"}},
                                    {"n": 2, "extra_body": {"summary": "joined"}}])  # fmt: skip
async def test_a_stream_says_what_the_answer_without_it_says(pod: Pod, fields: dict[str, Any]) -> None:
    chunks = await streamed(pod, sound(70), **fields)
    whole = await ask(pod, sound(70), **fields)
    assert texts(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    assert [chunk.choices[0].finish_reason for chunk in chunks].count("stop") == len(whole.choices)
    first: dict[int, Any] = {}
    for chunk in chunks:
        first.setdefault(chunk.choices[0].index, chunk.choices[0].delta.role)
    assert set(first.values()) == {"assistant"}


async def test_joined_captions_come_window_by_window(pod: Pod) -> None:
    chunks = await streamed(pod, sound(70), extra_body={"summary": "joined"})
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(said) == 3
    assert said[1].startswith("; a sound of")


async def test_the_bytes_of_a_stream(pod: Pod) -> None:
    body = {"messages": messages(sound(2)), "stream": True}
    answer = await pod.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, end, rest = answer.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    assert len({json.loads(event.removeprefix("data: "))["id"] for event in events}) == 1


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "messages must be a list with a message of the role 'user'", "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages must be a list with a message", "messages"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "it has 0", "messages[0].content"),
        ({"messages": messages(sound(1), sound(1))}, "it has 2", "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "a part of the type 'image_url', 'text' and 'input_audio' are accepted",
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].input_audio.data must be base64",
            "messages[0].content[0].input_audio.data",
        ),
        ({"messages": messages(sound(1)), "n": 11}, "less than or equal to 10", "n"),
        ({"messages": messages(sound(1)), "logprobs": True}, "logprobs can only be false here", "logprobs"),
        (
            {"messages": messages(sound(1)), "modalities": ["text", "audio"]},
            'modalities can only be ["text"] here',
            "modalities",
        ),
    ],
)
async def test_refusals_are_openais(pod: Pod, body: dict[str, Any], message: str, param: str) -> None:
    refused = await pod.http.post("/v1/chat/completions", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"]) == (400, "invalid_request_error"), refused.text
    assert message in error["message"]
    assert error["param"] == param


async def test_the_client_raises_its_own_errors(pod: Pod) -> None:
    with pytest.raises(openai.BadRequestError, match="must hold one part"):
        await ask(pod)
    pod.predictor.error = Overloaded("the queue is full")
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(pod, sound(1), stream=True)
    assert caught.value.status_code == 503


async def test_models_are_listed_under_both_prefixes(pod: Pod) -> None:
    assert [model.id async for model in await pod.openai.models.list()] == ["sounds"]
    assert (await pod.http.get("/openai/v1/models")).json()["models"] == ["sounds"]
