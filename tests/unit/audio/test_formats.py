"""Every shape of a transcript, read back by what clients read it with."""

import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import openai.types.audio as openai_types
import pytest
import srt
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from serving import languages
from serving.contracts.asr import Word
from transformers_pre.audio import formats
from transformers_pre.audio.merge import Transcript, TranscriptSegment
from transformers_pre.audio.routes.events import event


def transcript(*lines: tuple[float, float, str], words: bool = False, **fields: Any) -> Transcript:
    segments = [
        TranscriptSegment(
            id=number,
            seek=0,
            start=start,
            end=end,
            text=text,
            tokens=list(range(len(text.split()))),
            temperature=0.2,
            avg_logprob=-0.3,
            compression_ratio=1.1,
            no_speech_prob=0.01,
            words=[Word(word=word, start=start, end=end, probability=0.9) for word in re.findall(r"\s*\S+", text)]
            if words
            else None,
        )
        for number, (start, end, text) in enumerate(lines)
    ]
    defaults = {"text": "".join(text for _, _, text in lines), "language": "en", "duration": 12.34}
    return Transcript(**{**defaults, "task": "transcribe", "segments": segments, **fields})


PIECES = [
    *"aZ1.,:- \t\n\r\0\v\f\x1c\x85\u2028\u00a0\ufeff&<>[]{}#йöß你🎙",
    *("-->", "\n\n", "\r\n", "1\n", "00:00:01,000 --> 00:00:02,000", "00:01.000 --> 00:02.000 align:start"),
    *("WEBVTT", "NOTE", "STYLE", "REGION", "&amp;", "<v Ann>", "</i>", "{\\an8}"),
]
"""What texts are made of: what could end a cue, start one, or change how the file is read."""

SPEECH = transcript((0.0, 2.5, "Hello there."), (2.5, 4.0, " How are you?"), words=True)


def strictly(kind: Any, body: dict[str, Any]) -> Any:
    return TypeAdapter(kind).validate_python(body, strict=True)


@st.composite
def lines(draw: st.DrawFn) -> list[tuple[float, float, str]]:
    """Segments as `merge` makes them: starts in order, no end before its start. Texts are anything."""
    clock, found = 0.0, []
    for _ in range(draw(st.integers(0, 8))):
        start = clock + draw(st.floats(0, 5, allow_subnormal=False))
        end = start + draw(st.floats(0, 5, allow_subnormal=False))
        found.append((start, end, draw(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))))
        clock = draw(st.sampled_from([start, end, start + 3600 * 60]))
    return found


def one_line(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())


def shown(found: list[tuple[float, float, str]]) -> list[str]:
    return [one_line(text) for _, _, text in found if one_line(text)]


@given(lines())
@example([(0.0, 1.0, "1\n\n2\n00:00:05,000 --> 00:00:06,000\nnot a cue")])
@example([(0.0, 1.0, "1984"), (1.0, 2.0, "2"), (2.0, 3.0, "00:00:01,000 --> 00:00:02,000")])
@example([(0.0, 1.0, "---->")])
@example([(0.9994, 0.9996, "a"), (0.9996, 0.9996, "b"), (359999.9999, 360000.0, "past a hundred hours")])
def test_srt_is_read_back_cue_by_cue(found: list[tuple[float, float, str]]) -> None:
    read = list(srt.parse(formats.srt(transcript(*found))))
    assert [cue.index for cue in read] == list(range(1, len(read) + 1))
    assert [cue.content for cue in read] == [re.sub("--+>", "->", text) for text in shown(found)]
    assert not any("-->" in cue.content for cue in read)
    assert_times([(cue.start.total_seconds(), cue.end.total_seconds()) for cue in read], found)


@given(lines())
@example([(0.0, 1.0, "NOTE\n\n00:05.000 --> 00:06.000\nnot a cue")])
@example([(0.0, 1.0, "STYLE"), (1.0, 2.0, "<v Ann>5 < 6 &amp; 7 > 6 --> all</v>"), (2.0, 2.0, "WEBVTT")])
@example([(359999.9999, 360000.0, "past a hundred hours")])
def test_vtt_is_read_back_cue_by_cue(found: list[tuple[float, float, str]]) -> None:
    file = formats.vtt(transcript(*found))
    read = webvtt.WebVTT.from_string(file, strict=True)
    assert [unescaped(cue.raw_text) for cue in read.captions] == shown(found)
    assert "-->" not in "".join(cue.raw_text for cue in read.captions)
    assert_times([(ms(cue.start), ms(cue.end)) for cue in read.captions], found)


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def ms(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return (int(hours) * 3600_000 + int(minutes) * 60_000 + round(float(seconds) * 1000)) / 1000


def assert_times(read: list[tuple[float, float]], found: list[tuple[float, float, str]]) -> None:
    kept = [(start, end) for start, end, text in found if one_line(text)]
    assert [start for start, _ in read] == sorted(start for start, _ in read)
    for (read_start, read_end), (start, end) in zip(read, kept, strict=True):
        assert read_end > read_start
        assert abs(read_start - start) <= 0.00051
        assert abs(read_end - end) <= 0.00151  # half a millisecond of rounding and the one that every cue lasts


def test_segments_of_split_channels_come_in_the_order_of_their_starts() -> None:
    found = transcript((4.0, 6.0, " second"), (1.0, 9.0, " first"))
    assert [cue.content for cue in srt.parse(formats.srt(found))] == ["first", "second"]


def test_an_empty_transcript_makes_empty_files() -> None:
    nothing = transcript()
    assert formats.srt(nothing) == ""
    assert list(srt.parse(formats.srt(nothing))) == []
    assert webvtt.from_buffer(io.StringIO(formats.vtt(nothing))).captions == []


def test_a_vtt_file_without_its_header_is_refused_and_ours_has_it() -> None:
    # As in speaches, sse_test.
    file = formats.vtt(SPEECH)
    assert len(webvtt.from_string(file).captions) == 2
    with pytest.raises(webvtt.errors.MalformedFileError):
        webvtt.from_string(file.replace("WEBVTT", "YO"))


def test_json_is_openais_transcription() -> None:
    body = formats.json_body(SPEECH)
    assert body == {"text": "Hello there. How are you?", "usage": {"type": "duration", "seconds": 12.34}}
    strictly(openai_types.Transcription, body)
    strictly(openai_types.Translation, body)


def test_verbose_json_has_openais_fields_and_no_others() -> None:
    body = formats.verbose_body(SPEECH, ("segment", "word"))
    read = strictly(openai_types.TranscriptionVerbose, body)
    assert read.text == formats.json_body(SPEECH)["text"]
    assert read.language == "english"
    assert body["task"] == "transcribe"
    assert not set(body) - set(openai_types.TranscriptionVerbose.model_fields) - {"task"}
    assert set(body["segments"][0]) == set(openai_types.TranscriptionSegment.model_fields)
    assert [segment.id for segment in read.segments] == [0, 1]
    assert [word.word for word in read.words] == ["Hello", "there.", "How", "are", "you?"]
    assert body["words"][0] == {"word": "Hello", "start": 0.0, "end": 2.5}
    assert read.usage.seconds == 12.34


@pytest.mark.parametrize(
    ("granularities", "lists"),
    [(("segment",), {"segments"}), (("word",), {"words"}), (("word", "segment"), {"segments", "words"})],
)
def test_granularities_choose_what_is_listed(granularities: tuple[str, ...], lists: set[str]) -> None:
    # What OpenAI's own API does, captured in speaches: tests/openai_timestamp_granularities_test.py
    body = formats.verbose_body(SPEECH, granularities)
    assert lists == {"segments", "words"} & set(body)


def test_verbose_json_of_silence_is_complete() -> None:
    silence = transcript(language=None)
    read = strictly(openai_types.TranscriptionVerbose, formats.verbose_body(silence, ("segment", "word")))
    assert (read.text, read.segments, read.words, read.language) == ("", [], [], "unknown")


def test_a_translation_is_english_whatever_was_spoken() -> None:
    body = formats.verbose_body(transcript((0, 1, "Hello."), language="ru", task="translate"), ("segment",))
    assert strictly(openai_types.TranslationVerbose, body).language == "english"
    assert body["task"] == "translate"


def test_events_are_openais() -> None:
    assert strictly(openai_types.TranscriptionTextDeltaEvent, formats.delta_body(" Grüße")).delta == " Grüße"
    done = strictly(openai_types.TranscriptionTextDoneEvent, formats.done_body(SPEECH))
    assert done.text == SPEECH.text
    # 12.34 s at 10 tokens a second, 2 + 3 tokens of text
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (124, 5, 129)
    assert done.usage.input_token_details.audio_tokens == 124


def test_an_event_is_one_line_whatever_its_text() -> None:
    sent = event(formats.delta_body("a\n\ndata: [DONE]\r\n\u2028"))
    assert sent.startswith(b"data: {")
    assert sent.count(b"\n") == 2
    assert b"\r" not in sent
    assert sent.endswith(b"\n\n")


def test_languages_are_named_as_whisper_names_them() -> None:
    # Loaded from its file, because the package around it imports torch.
    package = importlib.util.find_spec("whisper")
    spec = importlib.util.spec_from_file_location("whisper_tokenizer", Path(package.origin).with_name("tokenizer.py"))
    tokenizer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tokenizer)
    assert tokenizer.LANGUAGES == languages.NAMES


@pytest.mark.parametrize("text", ["en", "EN", " english ", "English", "en-US", "en_gb"])
def test_a_language_is_understood_as_code_tag_or_name(text: str) -> None:
    assert languages.code(text) == "en"


@pytest.mark.parametrize(
    ("text", "code"), [("Haitian Creole", "ht"), ("yue", "yue"), ("zh-Hans-CN", "zh"), ("eo", "eo")]
)
def test_other_languages(text: str, code: str) -> None:
    assert languages.code(text) == code


@pytest.mark.parametrize("text", ["", "  ", "auto", "AUTO"])
def test_no_language_is_left_to_detection(text: str) -> None:
    assert languages.code(text) is None


def test_no_code_stands_twice() -> None:
    assert languages.OTHER_CODES.isdisjoint(languages.NAMES)
    assert len(languages.OTHER_CODES | set(languages.NAMES) - {"haw", "yue", "jw"}) == 183  # all of ISO-639-1


@pytest.mark.parametrize("text", ["e", "xx", "eng", "xx-US", "klingonish", "12", "en us", "en-", "../en", "e" * 4000])
def test_what_is_no_language_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO-639-1"):
        languages.code(text)


def test_a_language_without_a_name_is_its_code() -> None:
    assert (languages.name("eo"), languages.name("de"), languages.name(None)) == ("eo", "german", "unknown")
