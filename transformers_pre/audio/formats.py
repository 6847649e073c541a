"""A transcript in the shapes clients ask for: OpenAI's json and verbose_json, plain text, SRT, WebVTT, server-sent events.

Pure functions of a transcript: no HTTP, no validation of requests, no decision about what was said.
"""

import html
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from serving import languages
from transformers_pre.audio.merge import Transcript, TranscriptSegment

AUDIO_TOKENS_PER_SECOND = 10
"""One input token each 100 ms, as OpenAI counts audio that users send (its guide "Managing costs" of the Realtime API)."""

_ARROW = re.compile("--+>")  # what SRT sets between two times, and has no way to escape


def json_body(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `Transcription`: the text, and the seconds of audio it was made from."""
    return {"text": transcript.text, "usage": _seconds_used(transcript)}


def verbose_body(transcript: Transcript, granularities: Collection[str]) -> dict[str, Any]:
    """OpenAI's `TranscriptionVerbose`.

    `language` is a lower-case English name, as OpenAI's API answers (its documented example has "english"); that of a
    translation is always "english". Segments say their `channel` where channels were transcribed apart. `granularities`
    of {"word"} alone leave `segments` out, as OpenAI's API does.
    """
    language = "english" if transcript.task == "translate" else languages.name(transcript.language)
    body: dict[str, Any] = {
        "task": transcript.task,
        "language": language,
        "duration": transcript.duration,
        "text": transcript.text,
    }
    if "segment" in granularities:
        body["segments"] = [segment.model_dump(exclude={"words"}, exclude_none=True) for segment in transcript.segments]
    if "word" in granularities:
        words = [word for segment in transcript.segments for word in segment.words or []]
        body["words"] = [{"word": word.word.strip(), "start": word.start, "end": word.end} for word in words]
    return {**body, "usage": _seconds_used(transcript)}


def srt(transcript: Transcript) -> str:
    """SubRip. Times are whole milliseconds, an arrow inside a text is shortened; no segments make an empty file."""
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_ARROW.sub('->', text)}\n"
        for number, (start, end, text) in enumerate(_cues(transcript.segments), 1)
    ]
    return "\n".join(cues)


def vtt(transcript: Transcript) -> str:
    """WebVTT. Texts are escaped (`&`, `<`, `>`), so they come back as they were; no segments leave the header."""
    cues = [
        f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{html.escape(text, quote=False)}\n"
        for start, end, text in _cues(transcript.segments)
    ]
    return "".join(["WEBVTT\n", *cues])


def delta_body(text: str) -> dict[str, Any]:
    """OpenAI's `TranscriptionTextDeltaEvent`."""
    return {"type": "transcript.text.delta", "delta": text}


def done_body(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `TranscriptionTextDoneEvent`: the whole text, and usage in tokens, the only kind this event has.

    Input tokens count the audio (`AUDIO_TOKENS_PER_SECOND`), whatever the model's own frame rate; output tokens are those
    the decoder reported for the segments: none from an engine without tokens, none for a segment trimmed at a cut.
    """
    heard = math.ceil(transcript.duration * AUDIO_TOKENS_PER_SECOND)
    written = sum(len(segment.tokens) for segment in transcript.segments)
    usage = {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard},
        "output_tokens": written,
        "total_tokens": heard + written,
    }
    return {"type": "transcript.text.done", "text": transcript.text, "usage": usage}


def _seconds_used(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": transcript.duration}


def _cues(segments: Sequence[TranscriptSegment]) -> list[tuple[int, int, str]]:
    """(start, end) in milliseconds and the text on one line, by start; segments without text make none.

    Every cue lasts at least a millisecond, because WebVTT wants an end after the start. White space of any kind becomes
    one space: a line break or an empty line would end the cue.
    """
    cues = []
    for segment in segments:
        text = " ".join(segment.text.replace("\0", " ").split())
        start = max(0, round(segment.start * 1000))
        if text:
            cues.append((start, max(start + 1, round(segment.end * 1000)), text))
    return sorted(cues, key=lambda cue: cue[0])


def _clock(milliseconds: int, mark: str) -> str:
    """`hh:mm:ss,mmm`, with as many digits for the hours as they take."""
    seconds, fraction = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{mark}{fraction:03d}"


def kaldi_body(segments: Sequence[TranscriptSegment]) -> dict[str, Any]:
    """What Vosk calls a result: the words with their times in seconds, and the text.

    `conf` is 1 where the engine tells no confidence.
    """
    words = [word for segment in segments for word in segment.words or ()]
    return {
        "result": [
            {
                "conf": 1.0 if word.probability is None else word.probability,
                "start": word.start,
                "end": word.end,
                "word": word.word.strip(),
            }
            for word in words
        ],
        "text": "".join(segment.text for segment in segments).strip(),
    }
