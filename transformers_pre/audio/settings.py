"""Settings of the audio transformer: its limits, the decoder's and the splitter's."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from serving.settings import MIB, TransformerSettings
from transformers_pre.audio.fetch import AllowList, FetchLimits
from transformers_pre.audio.media import SAMPLE_RATE, MediaLimits
from transformers_pre.audio.split import SplitLimits
from transformers_pre.audio.upload import FormLimits


class AudioSettings(TransformerSettings):
    """The audio transformer: uploads, decoding, windows."""

    max_body_bytes: int = Field(256 * MIB, gt=0)
    """Largest request body on any route; more is refused with 413 before it is read."""
    max_upload_bytes: int = Field(25 * MIB, gt=0)
    """Largest recording, uploaded, linked or inside JSON; OpenAI's own limit by default. In V1's JSON it is base64, a third
    longer, and MAX_JSON_BYTES counts too: the smaller of both is the limit there."""
    max_form_fields: int = Field(64, ge=1)
    """Most text fields of a form; OpenAI's whole vocabulary is under 20."""
    max_form_field_bytes: int = Field(64 << 10, gt=0)
    """Largest text field of a form; Whisper reads at most 224 tokens of a prompt, about 1 kB."""
    max_form_overhead_bytes: int = Field(MIB, gt=0)
    """Most of a form besides its recording: all text fields, part headers, boundaries."""
    max_instances: int = Field(64, ge=1)
    """Most recordings of one V1 or V2 request; each costs a decoding and places at the predictor."""
    max_audio_seconds: float = Field(4 * 3600.0, ge=0)
    """Longest recording in seconds; 0 for no limit. A longer one is refused with 413."""
    max_channels: int = Field(8, ge=1)
    """Most channels of a recording."""
    decode_workers: int = Field(4, ge=1)
    """Processes that decode; as many recordings are decoded at a time, the others wait."""
    decode_queue: int = Field(64, ge=1)
    """Recordings that may wait for a decoder, on disk; more are refused with 503 and Retry-After."""
    decode_memory_bytes: int = Field(1024 * MIB, gt=0)
    """Memory that one decoding process may take; a file that wants more is refused with 422."""
    decode_timeout_seconds: float = Field(120.0, gt=0)
    """Time that decoding one recording may take, waits for the model not counted."""
    url_allow: str = ""
    """Hosts, addresses or networks (CIDR), separated by commas, that links may point to although they are private."""
    url_timeout_seconds: float = Field(60.0, gt=0)
    """Time that fetching a link may take."""
    url_max_redirects: int = Field(5, ge=0)
    """Most redirects between a link and its recording."""
    url_max_characters: int = Field(8192, gt=0, le=65536)
    """Longest link; signed ones to object stores take about 2000."""
    stream_keep_alive_seconds: float = Field(15.0, gt=0)
    """Idle time after which a stream of events sends a comment, so that proxies do not cut it. Once that, or the first event,
    is sent, the status is 200: what goes wrong then is told by an event."""
    whisper_sampling_rate: int = SAMPLE_RATE
    """Samples a second that the predictor gets. Recordings of any rate are resampled to the 16000 that recognisers take; other
    values are refused."""
    whisper_segment_duration_sec: float = Field(SplitLimits.max_seconds, ge=5.0, le=30.0)
    """Longest window that the predictor gets; 30 s is all that Whisper sees."""
    split_search_seconds: float = Field(SplitLimits.search_seconds, gt=0)
    """How far before a window's end the pause to cut in is looked for."""
    split_context_seconds: float = Field(SplitLimits.context_seconds, gt=0)
    """Audio from beyond a cut inside speech that both sides get as context."""
    vad_threshold: float = Field(SplitLimits.speech_threshold, gt=0, lt=1)
    """Speech probability from which 32 ms count as voiced."""

    @field_validator("whisper_sampling_rate")
    @classmethod
    def _known_rate(cls, rate: int) -> int:
        if rate != SAMPLE_RATE:
            raise ValueError(f"recognisers take {SAMPLE_RATE} samples a second, leave it out or give {SAMPLE_RATE}")
        return rate

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Settings that are each valid may leave no room for a window, or name no network: said at the start."""
        self.split_limits()
        self.fetch_limits()
        if self.max_upload_bytes + self.max_form_overhead_bytes > self.max_body_bytes:
            raise ValueError(
                f"MAX_UPLOAD_BYTES is {self.max_upload_bytes} and MAX_FORM_OVERHEAD_BYTES is {self.max_form_overhead_bytes}, "
                f"such a form does not fit into MAX_BODY_BYTES, which is {self.max_body_bytes}"
            )
        taken = self.decode_workers + self.decode_queue
        if self.max_instances > taken:
            raise ValueError(
                f"MAX_INSTANCES is {self.max_instances}, DECODE_WORKERS and DECODE_QUEUE together take {taken} recordings"
            )
        return self

    def form_limits(self) -> FormLimits:
        """The limits of an upload."""
        return FormLimits(
            max_upload_bytes=self.max_upload_bytes,
            max_fields=self.max_form_fields,
            max_field_bytes=self.max_form_field_bytes,
            max_overhead_bytes=self.max_form_overhead_bytes,
        )

    def media_limits(self) -> MediaLimits:
        """The decoder's limits."""
        return MediaLimits(
            workers=self.decode_workers,
            queue=self.decode_queue,
            memory_bytes=self.decode_memory_bytes,
            timeout_seconds=self.decode_timeout_seconds,
            max_audio_seconds=self.max_audio_seconds,
            max_channels=self.max_channels,
        )

    def fetch_limits(self) -> FetchLimits:
        """The limits of fetching a link."""
        return FetchLimits(
            max_upload_bytes=self.max_upload_bytes,
            timeout_seconds=self.url_timeout_seconds,
            max_redirects=self.url_max_redirects,
            max_characters=self.url_max_characters,
            allow=AllowList.parse(self.url_allow),
        )

    def split_limits(self) -> SplitLimits:
        """The splitter's limits."""
        return SplitLimits(
            max_seconds=self.whisper_segment_duration_sec,
            search_seconds=self.split_search_seconds,
            context_seconds=self.split_context_seconds,
            speech_threshold=self.vad_threshold,
        )
