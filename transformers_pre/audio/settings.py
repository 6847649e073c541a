"""Settings of the audio transformer as it recognises speech: the splitter's limits and those of live audio."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from serving import languages
from transformers_pre.audio.recording_settings import RecordingSettings
from transformers_pre.audio.split import SplitLimits
from transformers_pre.audio.wire import SAMPLE_RATE

_LIVE_SILENCE_SECONDS = 1.0  # a window of live speech begins at most half of it before the speech


class AudioSettings(RecordingSettings):
    """The audio transformer, PIPELINE=speech: windows and live audio, besides what every pipeline has."""

    whisper_sampling_rate: int = SAMPLE_RATE
    """Samples a second that the predictor gets. Recordings of any rate are resampled to the 16000 that recognisers take; other
    values are refused."""
    whisper_segment_duration_sec: float = Field(SplitLimits.max_seconds, ge=5.0, le=30.0)
    """Longest window that the predictor gets; 30 s is all that Whisper sees."""
    language_force: str = ""
    """Language of every request, whatever it asks for: a code or an English name. The predictor has the same setting, which the
    chart gives to both: here it is told also of recordings in which nobody speaks. Empty: the request's, or detected."""
    split_search_seconds: float = Field(SplitLimits.search_seconds, gt=0)
    """How far before a window's end the pause to cut in is looked for."""
    split_context_seconds: float = Field(SplitLimits.context_seconds, gt=0)
    """Audio from beyond a cut inside speech that both sides get as context."""
    vad_threshold: float = Field(SplitLimits.speech_threshold, gt=0, lt=1)
    """Speech probability from which 32 ms count as voiced."""

    base_sample_rate: int = Field(16_000, ge=4_000, le=192_000)
    """Samples a second of live audio whose client does not say."""
    max_overlap_duration: float = Field(15.0, ge=6.0, le=30.0)
    """Longest stretch of live speech, in seconds, that is held back for want of a pause; then it is cut inside the speech."""
    stream_pause_seconds: float = Field(0.5, ge=0.1, le=5.0)
    """A pause of this length ends an utterance of live speech."""
    stream_partial_seconds: float = Field(1.0, ge=0.0)
    """How often an utterance that still goes on is recognised for its partial text, in seconds of audio; 0 for never."""
    stream_max_connections: int = Field(256, ge=1)
    """Live connections at a time; more are refused with 503."""
    stream_max_seconds: float = Field(0.0, ge=0.0)
    """Longest audio of a live connection in seconds; 0 for no limit."""
    stream_max_message_values: int = Field(10_000, ge=100)
    """Most values and names in the JSON of a live connection's text message; while it is parsed, nothing else runs."""
    stream_idle_seconds: float = Field(60.0, gt=0.0)
    """Time after which a live connection is ended whose client sends no message, or reads none of those it is sent."""
    stream_decoders: int = Field(16, ge=1)
    """Live connections at a time that send a container (WebM, Ogg) and no raw samples; more are ended with close code 1013.
    Each has a decoding process of its own, of 50 MB, which is started when it is needed and kept for the next."""
    stream_session_seconds: float = Field(0.0, ge=0.0)
    """Time after which a live connection is told to come again (close code 1012), once its utterance is finished; 0 for never.
    Knative cuts a connection at its revision's timeout without a word: the chart keeps this below it."""

    @field_validator("whisper_sampling_rate")
    @classmethod
    def _known_rate(cls, rate: int) -> int:
        if rate != SAMPLE_RATE:
            raise ValueError(f"recognisers take {SAMPLE_RATE} samples a second, leave it out or give {SAMPLE_RATE}")
        return rate

    @field_validator("language_force")
    @classmethod
    def _code(cls, language: str) -> str:
        return languages.code(language) or ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Settings that are each valid may leave no room for a window."""
        self.split_limits()
        self.live_limits()
        return self

    def split_limits(self) -> SplitLimits:
        """The splitter's limits."""
        return SplitLimits(
            max_seconds=self.whisper_segment_duration_sec,
            search_seconds=self.split_search_seconds,
            context_seconds=self.split_context_seconds,
            speech_threshold=self.vad_threshold,
        )

    def live_limits(self) -> SplitLimits:
        """The splitter's limits for live audio: silences are short, and a pause ends a window."""
        return SplitLimits(
            max_seconds=self.max_overlap_duration,
            search_seconds=min(self.split_search_seconds, self.max_overlap_duration / 2),
            context_seconds=self.split_context_seconds,
            speech_threshold=self.vad_threshold,
            silence_seconds=_LIVE_SILENCE_SECONDS,
            endpoint_seconds=self.stream_pause_seconds,
        )
