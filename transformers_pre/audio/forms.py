"""What a client may ask of a transcription: the fields' names, what each accepts, and how they go together.

`SpeechForm` has what every route takes, `OpenAIForm` adds OpenAI's fields, `ProtocolForm` is for V1 and V2 parameters. How
a form arrives and is validated is `serving.uploads`.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import AfterValidator, Field

from serving import languages
from serving.contracts.asr import MAX_BEAM_SIZE, MAX_BEST_OF, MAX_TEXT, Task
from serving.errors import InvalidInput
from serving.uploads.form import Form
from transformers_pre.audio.source import Source
from transformers_pre.audio.transcribe import TranscriptionRequest

ResponseFormat = Literal["json", "text", "verbose_json", "srt", "vtt"]
Granularity = Literal["segment", "word"]

_STREAMED = ("json", "text")


class SpeechForm(Form):
    """How a recording is to be recognised."""

    file: ClassVar[str] = "The recording: WAV, FLAC, MP3, OGG, Opus, M4A, WebM or another format that FFmpeg reads."

    language: Annotated[str, AfterValidator(languages.code)] | None = None
    """Language of the speech: ISO-639-1 code, English name, or `auto` (as when left out) to detect it."""
    prompt: str | None = Field(None, max_length=MAX_TEXT)
    """Text that precedes the recording, for spelling and style."""
    hotwords: str | None = Field(None, max_length=MAX_TEXT)
    """Words to favour, separated by spaces or commas."""
    temperature: float | None = Field(None, ge=0.0, le=1.0)
    """Sampling temperature; 0, as when left out, rises by itself where the decoding fails."""
    beam_size: int | None = Field(None, ge=1, le=MAX_BEAM_SIZE)
    """Beams of the search at temperature 0."""
    best_of: int | None = Field(None, ge=1, le=MAX_BEST_OF)
    """Candidates drawn at a temperature above 0."""
    per_window_language: bool = False
    """Whether the language is detected anew in each window of the recording."""
    channels: Literal["mix", "split"] = "mix"
    """Whether the channels are mixed into one, or each is transcribed by itself."""

    def request(self, source: Source, task: Task) -> TranscriptionRequest:
        """What the transcriber is asked to do with `source`."""
        return TranscriptionRequest(
            source=source,
            language=self.language,
            task=task,
            prompt=self.prompt,
            hotwords=self.hotwords,
            temperature=self.temperature,
            beam_size=self.beam_size,
            best_of=self.best_of,
            words=self.wants_words,
            per_window_language=self.per_window_language,
            channels=self.channels,
        )

    @property
    def wants_words(self) -> bool:
        """Whether the answer shows times of words."""
        return False


class OpenAIForm(SpeechForm):
    """The form of OpenAI's transcriptions and translations, and `SpeechForm`'s fields besides."""

    lists: ClassVar[frozenset[str]] = frozenset({"timestamp_granularities", "keywords"})
    refused: ClassVar[dict[str, str]] = {
        "include": "log-probabilities are given per segment, in response_format=verbose_json",
        "languages": "send one language, or none to have it detected",
        "known_speaker_names": "speakers are not told apart",
        "known_speaker_references": "speakers are not told apart",
    }

    model: str | None = None
    """Any name is accepted: a pod serves one model, whatever name a client has built in."""
    response_format: ResponseFormat = "json"
    """Shape of the answer."""
    timestamp_granularities: tuple[Granularity, ...] = ("segment",)
    """What verbose_json lists with times: `segment`, `word`, or both."""
    stream: bool = False
    """Whether the answer is a stream of server-sent events, with response_format json or text."""
    chunking_strategy: Literal["auto"] = "auto"
    """Recordings are always cut at pauses."""
    keywords: tuple[str, ...] = ()
    """Words or phrases to favour, added to `hotwords`."""

    @pydantic.model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.stream and self.response_format not in _STREAMED:
            raise InvalidInput(
                f"stream goes with response_format {' or '.join(_STREAMED)}, not with {self.response_format}",
                code="unsupported_value",
                param="stream",
            )
        if self.stream and self.channels == "split":
            raise InvalidInput(
                "stream goes with channels=mix: split channels are put in order at the end",
                code="unsupported_value",
                param="stream",
            )
        if self.wants_words and self.response_format != "verbose_json":
            raise InvalidInput(
                f"times of words need response_format verbose_json, {self.response_format} does not show them",
                code="unsupported_value",
                param="timestamp_granularities[]",
            )
        return self

    @property
    def wants_words(self) -> bool:
        """Whether the answer shows times of words."""
        return "word" in self.timestamp_granularities

    def request(self, source: Source, task: Task) -> TranscriptionRequest:
        """What the transcriber is asked to do with `source`."""
        words = ", ".join([*filter(None, [self.hotwords]), *self.keywords])
        return replace(super().request(source, task), hotwords=words or None)


class ProtocolForm(SpeechForm):
    """Parameters of a V1 or V2 request, named as in the contract `asr/1`."""

    task: Task = "transcribe"
    """`translate` gives English text whatever the language."""
    timestamps: Literal["segment", "word"] = "segment"
    """Whether words get times besides segments."""

    @property
    def wants_words(self) -> bool:
        """Whether the answer shows times of words."""
        return self.timestamps == "word"
