"""What the test suites of vLLM and speaches ask of a transcription service, restated for this one; real weights, stock client.

Only what the other tests of the service do not ask already. Where a suite and OpenAI's own contract disagree, OpenAI's
counts: `text` is plain text, events are `transcript.text.…`. The suites: vLLM's tests/entrypoints/speech_to_text
(validation of transcriptions and translations, response formats, subtitles, offsets of chunks, sizes of uploads), and
speaches' tests of server-sent events and timestamp granularities.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import openai
import openai.types.audio as openai_types
import pytest
import pytest_asyncio
import srt
import webvtt
from openai.types.shared import ErrorObject
from pydantic import TypeAdapter

from tests.bench.speech import RATE
from tests.integration.clips import (
    COUNTING,
    FOX,
    HELLO,
    SPANISH,
    clip,
    joined,
    said,
    samples,
    silence,
    words,
)
from tests.services import Service

TRANSCRIPTIONS, TRANSLATIONS = PATHS = ["/v1/audio/transcriptions", "/v1/audio/translations"]
BONJOUR = "fr/bonjour_monde"
NUMBERS = [str(number) for number in range(1, 11)]
LARGEST = 25 << 20  # bytes of an upload, OpenAI's own limit
MILLISECOND = 0.00051  # half of one, in which subtitles count, and the rounding of floats
GREEDY = {"beam_size": 1}
COMBINATIONS: list[Any] = [[], ["segment"], ["word"], ["word", "segment"], ["segment", "word"]]
VLLMS = {
    "seed": 42, "top_p": 0.4, "top_k": 12, "min_p": 0.5, "repetition_penalty": 1.9, "frequency_penalty": 1.8,
    "presence_penalty": 2.0, "length_penalty": 0.1, "use_beam_search": True, "n": 2, "max_completion_tokens": 1,
    "to_language": "es", "vllm_xargs": "{}", "stream_include_usage": True, "stream_continuous_usage_stats": True,
}  # fmt: skip
"""Fields that vLLM has besides OpenAI's."""


@pytest_asyncio.fixture
async def client(service: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=240) as made:
        yield made


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=240) as made:
        yield made


async def verbose(client: openai.AsyncOpenAI, audio: bytes, **fields: Any) -> openai_types.TranscriptionVerbose:
    """verbose_json by a greedy search, its body validated: the client itself does not."""
    create = client.audio.transcriptions.with_raw_response.create
    raw = await create(file=audio, model="w", response_format="verbose_json", extra_body=GREEDY, **fields)
    return TypeAdapter(openai_types.TranscriptionVerbose).validate_json(raw.http_response.content, strict=True)


def post(http: httpx.Client, path: str, audio: bytes, **fields: Any) -> httpx.Response:
    """A 200 of either route."""
    answer = http.post(path, files={"file": audio}, data={"model": "w", **fields})
    assert answer.status_code == 200
    return answer


def events(answer: httpx.Response) -> list[openai_types.TranscriptionStreamEvent]:
    """A stream's events, each in OpenAI's shape, and how the stream ends."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *blocks, end, rest = answer.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    kind: TypeAdapter[Any] = TypeAdapter(openai_types.TranscriptionStreamEvent)
    read = [kind.validate_json(block.removeprefix("data: "), strict=True) for block in blocks]
    assert all("choices" not in json.loads(block.removeprefix("data: ")) for block in blocks)
    return read


def told(found: list[openai_types.TranscriptionStreamEvent]) -> str:
    """The text of a stream, which its deltas and its last event agree on."""
    *deltas, done = found
    assert isinstance(done, openai_types.TranscriptionTextDoneEvent)
    parts = [event.delta for event in deltas if isinstance(event, openai_types.TranscriptionTextDeltaEvent)]
    assert len(parts) == len(deltas)
    assert "".join(parts) == done.text
    return done.text


def seconds(clock: str) -> float:
    """Of WebVTT's hh:mm:ss.mmm."""
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def srt_cues(file: str) -> list[tuple[float, float, str]]:
    """Start, end and text of each cue; cues are numbered from 1."""
    read = list(srt.parse(file))
    assert [cue.index for cue in read] == list(range(1, len(read) + 1))
    return [(cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in read]


def vtt_cues(file: str) -> list[tuple[float, float, str]]:
    """Start, end and text of each cue."""
    read = webvtt.from_buffer(io.StringIO(file)).captions
    return [(seconds(cue.start), seconds(cue.end), cue.text) for cue in read]


# --- what is refused ---

REFUSED = [
    # fields, the recording, status, param, code, what the message says
    ({"language": "hh"}, clip(HELLO), 400, "language", "unsupported_value", "ISO-639-1"),
    ({"response_format": "yaml"}, clip(HELLO), 400, "response_format", "unsupported_value", "'verbose_json'"),
    ({"temperature": "-0.1"}, clip(HELLO), 400, "temperature", "unsupported_value", "greater than or equal to 0"),
    ({"temperature": "1.01"}, clip(HELLO), 400, "temperature", "unsupported_value", "less than or equal to 1"),
    ({"temperature": "warm"}, clip(HELLO), 400, "temperature", "unsupported_value", "number"),
    ({"beam_size": "0"}, clip(HELLO), 400, "beam_size", "unsupported_value", "1"),
    (
        *({"timestamp_granularities[]": "sentence", "response_format": "verbose_json"}, clip(HELLO)),
        *(400, "timestamp_granularities[]", "unsupported_value", "'word'"),
    ),
    ({"language": "en"}, b"not a valid audio file", 415, None, "unsupported_audio", "no audio that is read here"),
    ({}, b"", 400, "file", "empty_file", "0 bytes"),
    ({}, None, 400, "file", "missing_file", "file"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join([*case[0].values(), str(case[4])]))
def test_a_bad_request_has_openais_error_on_either_route(
    service: Service, http: httpx.Client, path: str, case: tuple[Any, ...]
) -> None:
    fields, audio, status, param, code, message = case
    decoded = service.transformer.metric("sonotome_windows_total", outcome="decoded")
    files = {"file": ("speech.wav", audio, "audio/wav")} if audio is not None else None
    answer = http.post(path, files=files, data={"model": "w", **fields})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    error = TypeAdapter(ErrorObject).validate_python(answer.json()["error"], strict=True)
    assert (error.type, error.param, error.code) == ("invalid_request_error", param, code)
    assert message in error.message
    assert answer.headers["x-request-id"]
    assert service.transformer.metric("sonotome_windows_total", outcome="decoded") == decoded


@pytest.mark.parametrize("path", PATHS)
def test_an_upload_of_exactly_the_limit_is_the_largest(http: httpx.Client, path: str) -> None:
    spoken = joined(samples(HELLO))
    filling = LARGEST - len(spoken) - 8  # after its samples, a chunk that readers skip
    audio = spoken + b"JUNK" + filling.to_bytes(4, "little") + bytes(filling)
    assert words(post(http, path, audio).json()["text"]) == ["hello", "world"]
    refused = http.post(path, files={"file": audio + b"\0"}, data={"model": "w"})
    error = TypeAdapter(ErrorObject).validate_python(refused.json()["error"], strict=True)
    assert (refused.status_code, error.param, error.code) == (413, "file", "file_too_large")
    assert f"{LARGEST} bytes (25 MiB)" in error.message


async def test_what_is_no_transcription_is_not_found(client: openai.AsyncOpenAI) -> None:
    calls: list[Awaitable[Any]] = [
        client.chat.completions.create(model="whisper", messages=[{"role": "user", "content": "Hello"}]),
        client.completions.create(model="whisper", prompt="Hello"),
        client.embeddings.create(model="whisper", input="Hello"),
        client.audio.speech.create(model="whisper", voice="alloy", input="Hello"),
    ]
    for found in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(found, openai.NotFoundError)


# --- timestamp granularities ---


async def test_every_combination_of_granularities_lists_what_it_names(client: openai.AsyncOpenAI) -> None:
    audio = clip(FOX)
    answers = await asyncio.gather(*(verbose(client, audio, timestamp_granularities=each) for each in COMBINATIONS))
    assert {tuple(words(answer.text)) for answer in answers} == {tuple(words(said(FOX)))}
    for combination, answer in zip(COMBINATIONS, answers, strict=True):
        named = set(combination or ["segment"])
        assert {name for name in ("segment", "word") if getattr(answer, f"{name}s") is not None} == named
        if answer.segments is not None:
            assert "".join(segment.text for segment in answer.segments) == answer.text
        if answer.words is not None:
            assert [words(word.word) for word in answer.words] == [[word] for word in words(answer.text)]
            assert all(word.start < word.end for word in answer.words)
            assert all(a.end <= b.start for a, b in pairwise(answer.words))


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt"])
async def test_only_verbose_json_has_times_of_words(client: openai.AsyncOpenAI, response_format: Any) -> None:
    create = client.audio.transcriptions.create
    for combination in COMBINATIONS[2:]:
        with pytest.raises(openai.BadRequestError) as caught:
            await create(
                file=clip(HELLO), model="w", response_format=response_format, timestamp_granularities=combination
            )
        assert caught.value.param == "timestamp_granularities[]"
        assert "verbose_json" in caught.value.message


async def test_times_of_segments_may_be_asked_for_where_nothing_shows_them(client: openai.AsyncOpenAI) -> None:
    create = client.audio.transcriptions.create
    found = await create(file=clip(HELLO), model="w", response_format="json", timestamp_granularities=["segment"])
    assert words(found.text) == ["hello", "world"]


# --- recordings of several windows ---


async def test_one_sentence_ten_times_is_there_ten_times(client: openai.AsyncOpenAI) -> None:
    # A text that repeats itself, because its speaker does.
    audio = joined(*[samples(FOX), silence(0.1)] * 10)
    found = await client.audio.transcriptions.create(file=audio, model="w", extra_body=GREEDY)
    assert words(found.text) == words(said(FOX)) * 10


async def test_subtitles_have_the_times_of_the_segments(client: openai.AsyncOpenAI) -> None:
    parts = (silence(2), samples(FOX), silence(28), samples(FOX), silence(1))
    audio, length = joined(*parts), sum(map(len, parts)) / RATE
    create = client.audio.transcriptions.create
    read, by_srt, by_vtt = await asyncio.gather(
        verbose(client, audio),
        create(file=audio, model="w", response_format="srt", extra_body=GREEDY),
        create(file=audio, model="w", response_format="vtt", extra_body=GREEDY),
    )
    segments = read.segments or []
    assert words(read.text) == words(said(FOX)) * 2
    for cues in (srt_cues(str(by_srt)), vtt_cues(str(by_vtt))):
        assert [text for _, _, text in cues] == [segment.text.strip() for segment in segments]
        for (start, end, _), segment in zip(cues, segments, strict=True):
            assert (start, end) == pytest.approx((segment.start, segment.end), abs=MILLISECOND)
            assert start < end <= length
        assert all(a[1] <= b[0] for a, b in pairwise(cues))
    # Times are the recording's, not those of windows of 30 s: the second one begins where it was said.
    second = 2 + len(parts[1]) / RATE + 28
    assert (segments[0].start, segments[-1].start) == pytest.approx((2, second), abs=0.75)


# --- translations ---


def test_a_translation_tells_the_same_in_every_format(http: httpx.Client) -> None:
    audio = clip(BONJOUR)
    plain = post(http, TRANSLATIONS, audio).json()
    text = TypeAdapter(openai_types.Translation).validate_python(plain, strict=True).text
    assert {"hello", "world"} <= set(words(text))
    by_format = {name: post(http, TRANSLATIONS, audio, response_format=name) for name in ("text", "srt", "vtt")}
    kinds = {name: answer.headers["content-type"].partition(";")[0] for name, answer in by_format.items()}
    assert kinds == {"text": "text/plain", "srt": "text/plain", "vtt": "text/vtt"}
    assert by_format["text"].text == text
    assert " ".join(cue[2] for cue in srt_cues(by_format["srt"].text)) == text
    assert " ".join(cue[2] for cue in vtt_cues(by_format["vtt"].text)) == text
    given = {"language": "fr", "to_language": "en", "seed": "42", "temperature": "0.0"}
    assert told(events(post(http, TRANSLATIONS, audio, stream="true", **given))) == text


def test_a_translation_of_two_windows_has_both(http: httpx.Client) -> None:
    audio = joined(samples(BONJOUR), silence(31), samples(BONJOUR))
    found = post(http, TRANSLATIONS, audio, response_format="verbose_json").json()
    read = TypeAdapter(openai_types.TranslationVerbose).validate_python(found, strict=True)
    assert words(read.text).count("hello") == 2
    first, second = read.segments or []
    assert second.start - first.start == pytest.approx(31 + len(samples(BONJOUR)) / RATE, abs=0.5)


# --- languages, at once ---


async def test_a_language_that_was_not_said_is_found(client: openai.AsyncOpenAI) -> None:
    expected = {
        "it/pangrama": ("italian", "danni"),
        "es/pangrama": ("spanish", "kiwi"),
        "pt/pangrama": ("portuguese", "raposa"),
    }
    answers = await asyncio.gather(*(verbose(client, clip(name)) for name in expected))
    assert [answer.language for answer in answers] == [language for language, _ in expected.values()]
    for answer, (_, word) in zip(answers, expected.values(), strict=True):
        assert word in words(answer.text)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client deprecates the method, not the route
async def test_requests_of_every_kind_at_once_do_not_mix(client: openai.AsyncOpenAI) -> None:
    create = client.audio.transcriptions.create

    async def stream() -> str:
        found = [event async for event in await create(file=clip(COUNTING), model="w", language="en", stream=True)]
        return told(found)

    hello, fox, counting, spanish, bonjour = await asyncio.gather(
        create(file=clip(HELLO), model="w", language="en", temperature=0.0),
        create(file=clip(FOX), model="w", response_format="text"),
        stream(),
        create(file=clip(SPANISH), model="w", response_format="srt", language="es"),
        client.audio.translations.create(file=clip(BONJOUR), model="w"),
    )
    assert words(hello.text) == ["hello", "world"]
    assert words(str(fox)) == words(said(FOX))
    assert words(counting) == NUMBERS
    assert {"el", "y"} <= set(words(" ".join(cue[2] for cue in srt_cues(str(spanish)))))
    assert {"hello", "world"} <= set(words(bonjour.text))


# --- fields of the decoding ---


def test_fields_of_vllms_change_nothing(http: httpx.Client) -> None:
    sent = {name: str(value) for name, value in VLLMS.items()}
    assert words(post(http, TRANSCRIPTIONS, clip(FOX), **sent).json()["text"]) == words(said(FOX))
    *deltas, done = found = events(post(http, TRANSCRIPTIONS, clip(FOX), stream="true", **sent))
    assert words(told(found)) == words(said(FOX))
    assert isinstance(done, openai_types.TranscriptionTextDoneEvent)
    assert done.usage is not None  # asked for by vLLM's fields or not, in the last event alone
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens > 0
    assert all(event.model_extra == {} for event in deltas)


def test_beams_stream_as_they_answer(http: httpx.Client) -> None:
    asked = {"beam_size": "2", "language": "en", "response_format": "text"}
    text = post(http, TRANSCRIPTIONS, clip(FOX), **asked).text
    assert told(events(post(http, TRANSCRIPTIONS, clip(FOX), stream="true", **asked))) == text
    assert words(text) == words(said(FOX))


async def test_a_prompt_is_not_part_of_the_answer(client: openai.AsyncOpenAI) -> None:
    prompt = "This is a speech, recorded in a phonograph."
    found = await client.audio.transcriptions.create(file=clip(FOX), model="w", prompt=prompt, temperature=0.0)
    assert words(found.text) == words(said(FOX))
