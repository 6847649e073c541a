"""The Whisper service as the stock `openai` client sees it: one call in every format, its options, its refusals.

Two processes, real weights. What the routes do with forms and errors, whatever the model, is in `tests/unit/audio/routes`.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import jiwer
import openai
import openai.types.audio as openai_types
import pytest
import srt
import webvtt
from pydantic import TypeAdapter

from tests.integration.clips import (
    CALL,
    COUNTING,
    FOX,
    FRENCH,
    HELLO,
    SPANISH,
    clip,
    joined,
    said,
    samples,
    silence,
    stereo,
    words,
)
from tests.services import Service

WORST_ERROR_RATE = 0.2  # Whisper-base, int8, on a telephone line; measured 0.136


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def strictly(kind: Any, raw: Any) -> Any:
    """The client builds its types without validating, so the body itself is validated here."""
    return TypeAdapter(kind).validate_json(raw.http_response.content, strict=True)


def verbose(client: openai.OpenAI, audio: bytes, **fields: Any) -> openai_types.TranscriptionVerbose:
    granularities: list[Any] = ["segment", "word"]
    create = client.audio.transcriptions.with_raw_response.create
    raw = create(
        file=audio, model="w", response_format="verbose_json", timestamp_granularities=granularities, extra_body=fields
    )
    return strictly(openai_types.TranscriptionVerbose, raw)


@dataclass(frozen=True)
class Answers:
    """The call in every format."""

    json: openai_types.Transcription
    verbose: openai_types.TranscriptionVerbose
    text: str
    srt: str
    vtt: str
    events: list[Any]
    windows: float
    """How many windows were decoded for one of them."""


@pytest.fixture(scope="module")
def answers(service: Service, client: openai.OpenAI, call: bytes) -> Answers:
    create = client.audio.transcriptions.create
    before = service.transformer.metric("sonotome_windows_total", outcome="decoded")
    raw = client.audio.transcriptions.with_raw_response.create(file=call, model="whisper-1")
    windows = service.transformer.metric("sonotome_windows_total", outcome="decoded") - before
    return Answers(
        json=strictly(openai_types.Transcription, raw),
        verbose=verbose(client, call),
        text=str(create(file=call, model="whisper-1", response_format="text")),
        srt=str(create(file=call, model="whisper-1", response_format="srt")),
        vtt=str(create(file=call, model="whisper-1", response_format="vtt")),
        events=list(create(file=call, model="whisper-1", stream=True)),
        windows=windows,
    )


def test_every_format_tells_the_same_text(answers: Answers) -> None:
    text = answers.json.text
    assert len(words(text)) > 60
    assert answers.verbose.text == answers.text == text
    assert "".join(segment.text for segment in answers.verbose.segments or []) == text
    assert "".join(word.word for word in answers.verbose.words or []) == text.replace(" ", "")
    assert " ".join(cue.content for cue in srt.parse(answers.srt)) == text
    assert " ".join(cue.text for cue in webvtt.from_buffer(io.StringIO(answers.vtt))) == text
    *deltas, done = answers.events
    assert len(deltas) == len(answers.verbose.segments or [])
    assert "".join(event.delta for event in deltas) == done.text == text


def test_every_event_is_of_the_clients_types(answers: Answers) -> None:
    *deltas, done = (event.model_dump(exclude_unset=True) for event in answers.events)
    for delta in deltas:
        TypeAdapter(openai_types.TranscriptionTextDeltaEvent).validate_python(delta, strict=True)
    read = TypeAdapter(openai_types.TranscriptionTextDoneEvent).validate_python(done, strict=True)
    assert read.usage is not None
    assert read.usage.input_tokens == 300
    assert read.usage.output_tokens > len(words(read.text))


def test_the_transcript_is_right_up_to_a_stated_error_rate(answers: Answers) -> None:
    lines = CALL.with_suffix(".stm").read_text().splitlines()
    spoken = " ".join(" ".join(words(line.split(maxsplit=5)[5])) for line in lines)
    assert jiwer.wer(spoken, " ".join(words(answers.json.text))) < WORST_ERROR_RATE


def test_times_lie_in_the_recording_and_where_the_words_were_said(answers: Answers) -> None:
    read = answers.verbose
    segments, listed = read.segments or [], read.words or []
    assert (read.duration, read.language, read.usage and read.usage.seconds) == (30.0, "english", 30.0)
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert all(0 <= part.start <= part.end <= 30.0 for part in (*segments, *listed))
    assert all(a.end <= b.start for a, b in pairwise(segments))
    assert all(a.start <= b.start for a, b in pairwise(listed))
    # Two of the transcript's times (sample.stm): the first word after a pause, and a sentence from the middle.
    assert listed[0].start == pytest.approx(6.68, abs=0.5)
    (diane,) = [segment for segment in segments if "Diane" in segment.text]
    assert (diane.start, diane.end) == pytest.approx((12.54, 14.18), abs=0.5)


def test_thirty_seconds_of_speech_are_one_window(answers: Answers) -> None:
    assert answers.windows == 1


# --- what may be asked ---


@pytest.mark.filterwarnings(
    "ignore:deprecated:DeprecationWarning"
)  # the client is; the route is asked for all the same
def test_translations(client: openai.OpenAI) -> None:
    create = client.audio.translations.create
    answer, told = (
        create(file=clip("fr/bonjour_monde"), model="w", response_format=f) for f in ("json", "verbose_json")
    )
    plain = TypeAdapter(openai_types.Translation).validate_python(answer.model_dump(exclude_unset=True), strict=True)
    read = TypeAdapter(openai_types.TranslationVerbose).validate_python(
        told.model_dump(exclude_unset=True), strict=True
    )
    assert {"hello", "world"} <= set(words(plain.text))
    assert (read.text, read.language, read.duration) == (plain.text, "english", pytest.approx(1.440375))
    assert "".join(segment.text for segment in read.segments or []) == read.text


@pytest.mark.parametrize("language", ["French", "fr-CA", "auto"])
def test_a_language_may_be_given_in_several_ways(client: openai.OpenAI, language: str) -> None:
    read = verbose(client, clip(FRENCH), language=language)
    assert read.language == "french"
    assert "whisky" in words(read.text)


def test_the_language_that_was_given_is_the_one_that_is_decoded(client: openai.OpenAI) -> None:
    assert verbose(client, clip(HELLO), language="de").language == "german"


def test_a_recording_without_words_has_the_language_that_was_given(client: openai.OpenAI) -> None:
    read = verbose(client, joined(silence(1)), language="fr")
    assert (read.text, read.segments, read.language) == ("", [], "french")


def test_prompt_and_hotwords_reach_the_decoder(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    assert words(create(file=clip(COUNTING), model="w").text) == [str(number) for number in range(1, 11)]
    assert create(file=clip(COUNTING), model="w", prompt="One. Two. Three. Four.").text.startswith("One. Two. Three.")
    favoured = create(file=clip(FOX), model="w", extra_body={"hotwords": "The quick brown Foxx, lazy dawg."})
    assert words(favoured.text)[-2:] == ["lazy", "dawg"]


def test_a_temperature_is_used_and_told(client: openai.OpenAI) -> None:
    read = verbose(client, clip(HELLO), temperature=0.4)
    assert {segment.temperature for segment in read.segments or []} == {0.4}


def test_channels_may_be_told_apart(client: openai.OpenAI) -> None:
    spoken = samples(COUNTING)
    audio = stereo(samples(FOX), spoken)
    read = verbose(client, audio, channels="split")
    by_channel = {segment.model_extra["channel"]: words(segment.text) for segment in read.segments or []}
    assert by_channel[0] == words(said(FOX))
    assert by_channel[1] in (words(said(COUNTING)), [str(number) for number in range(1, 11)])
    assert "".join(segment.text for segment in read.segments or []) == read.text
    assert words(verbose(client, audio).text) != words(read.text)  # mixed, they talk at once
    assert read.duration == pytest.approx(len(spoken) / 16_000, abs=0.01)


def test_each_window_may_have_its_own_language(client: openai.OpenAI) -> None:
    audio = joined(samples(FOX), silence(22), samples(SPANISH), silence(3))
    found = verbose(client, audio, per_window_language="true")
    forced = verbose(client, audio)
    english = words(said(FOX))
    assert words(found.text)[: len(english)] == words(forced.text)[: len(english)] == english
    assert {"el", "y"} <= set(words(found.text)[len(english) :])
    assert not {"el", "y"} & set(words(forced.text)[len(english) :])  # the first window's language, for all of them


def test_fields_that_are_not_known_are_ignored(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=("notes.txt", clip(HELLO), "text/plain"), model="gpt-4o-transcribe", extra_body={"no_such_field": "1"}
    )
    assert words(answer.text) == ["hello", "world"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        ({"response_format": "diarized_json"}, "response_format", "'verbose_json'"),
        ({"temperature": 1.5}, "temperature", "less than or equal to 1"),
        ({"language": "no language at all"}, "language", "ISO-639-1"),
        ({"extra_body": {"beam_size": 99}}, "beam_size", "20"),
        ({"include": ["logprobs"]}, "include[]", "not supported"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities[]", "verbose_json"),
        ({"stream": True, "response_format": "srt"}, "stream", "json or text"),
    ],
)
def test_values_that_are_not_supported_are_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str, named: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(file=clip(HELLO), model="w", **fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert named in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_a_language_that_the_model_does_not_know_is_refused(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="language 'xh' is not known to this model, it accepts: af, am"):
        client.audio.transcriptions.create(file=clip(HELLO), model="w", language="xh", stream=stream)


# --- around it ---


def test_models(client: openai.OpenAI) -> None:
    (model,) = list(client.models.list())
    assert (model.id, model.object, model.owned_by) == ("whisper", "model", "sonotome")
    assert client.models.retrieve("whisper").id == "whisper"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("whisper-2")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_all_of_it_under_kserves_prefix(service: Service) -> None:
    with openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key="none", max_retries=0) as client:
        assert words(client.audio.transcriptions.create(file=clip(HELLO), model="w").text) == ["hello", "world"]
        assert next(iter(client.models.list())).id == "whisper"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("whisper-2")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_request_is_found_again_in_both_logs(service: Service) -> None:
    answer = httpx.post(
        f"{service.url}/v1/audio/transcriptions",
        files={"file": clip(HELLO)},
        headers={"x-request-id": "find-me"},
        timeout=60,
        trust_env=False,
    )
    assert answer.headers["x-request-id"] == "find-me"
    service.transformer.until_logged(request_id="find-me", route="/v1/audio/transcriptions", status=200)
    service.predictor.until_logged(request_id="find-me", status=200)
    for pod in (service.transformer, service.predictor):
        assert "ello" not in pod.text()  # what was said is in no log
