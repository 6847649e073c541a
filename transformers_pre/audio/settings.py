"""Settings of the audio transformer: its limits, the decoder's and the splitter's."""

from typing import Self

from pydantic import Field, model_validator

from serving.settings import MIB, TransformerSettings
from transformers_pre.audio.fetch import AllowList, FetchLimits
from transformers_pre.audio.media import MediaLimits
from transformers_pre.audio.split import SplitLimits


class AudioSettings(TransformerSettings):
    """The audio transformer: uploads, decoding, windows."""

    max_body_bytes: int = Field(256 * MIB, gt=0)
    """Largest request body on any route; more is refused with 413 before it is read."""
    max_upload_bytes: int = Field(25 * MIB, gt=0)
    """Largest recording, uploaded, linked or inside JSON; OpenAI's own limit by default."""
    max_audio_seconds: float = Field(4 * 3600.0, ge=0)
    """Longest recording in seconds; 0 for no limit. A longer one is refused with 413."""
    max_channels: int = Field(8, ge=1)
    """Most channels of a recording."""
    decode_workers: int = Field(4, ge=1)
    """Processes that decode; as many recordings are decoded at a time, the others wait."""
    decode_memory_bytes: int = Field(1024 * MIB, gt=0)
    """Memory that one decoding process may take; a file that wants more is refused with 422."""
    decode_timeout_seconds: float = Field(120.0, gt=0)
    """Time that decoding one recording may take, waits for the model not counted."""
    url_allow: str = ""
    """Hosts, addresses or networks (CIDR), separated by commas, that links may point to although they are private."""
    url_timeout_seconds: float = Field(60.0, gt=0)
    """Time that fetching a link may take."""
    whisper_segment_duration_sec: float = Field(30.0, ge=5.0, le=30.0)
    """Longest window that the predictor gets; 30 s is all that Whisper sees."""
    split_search_seconds: float = Field(8.0, gt=0)
    """How far before a window's end the pause to cut in is looked for."""
    split_context_seconds: float = Field(1.5, gt=0)
    """Audio from beyond a cut inside speech that both sides get as context."""
    vad_threshold: float = Field(0.5, gt=0, lt=1)
    """Speech probability from which 32 ms count as voiced."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Settings that are each valid may leave no room for a window, or name no network: said at the start."""
        self.split_limits()
        self.fetch_limits()
        return self

    def media_limits(self) -> MediaLimits:
        """The decoder's limits."""
        return MediaLimits(
            workers=self.decode_workers,
            decoder_memory_bytes=self.decode_memory_bytes,
            decode_timeout_seconds=self.decode_timeout_seconds,
            max_audio_seconds=self.max_audio_seconds,
            max_channels=self.max_channels,
        )

    def fetch_limits(self) -> FetchLimits:
        """The limits of fetching a link."""
        return FetchLimits(self.max_upload_bytes, self.url_timeout_seconds, AllowList.parse(self.url_allow))

    def split_limits(self) -> SplitLimits:
        """The splitter's limits."""
        return SplitLimits(
            max_seconds=self.whisper_segment_duration_sec,
            search_seconds=self.split_search_seconds,
            context_seconds=self.split_context_seconds,
            speech_threshold=self.vad_threshold,
        )
