"""Settings of every pipeline of the audio transformer: which one it is, how large recordings may be, what decoding may take."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from serving.settings import MIB
from serving.uploads.settings import UploadSettings
from transformers_pre.audio.media import MediaLimits

Pipeline = Literal["speech", "caption"]


class RecordingSettings(UploadSettings):
    """The audio transformer: uploads, decoding."""

    pipeline: Pipeline = "speech"
    """What the pod does with recordings: `speech` recognises it (predictors of `asr/1`), `caption` describes what is heard
    (predictors of `caption/1`). Each has routes and settings of its own."""
    max_upload_bytes: int = Field(25 * MIB, gt=0)
    """Largest recording, uploaded, linked or inside JSON; OpenAI's own limit by default. In JSON it is base64, a third
    longer, and MAX_JSON_BYTES counts too: the smaller of both is the limit there."""
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
    stream_keep_alive_seconds: float = Field(15.0, gt=0)
    """Idle time after which a stream of events sends a comment, so that proxies do not cut it. Once that, or the first event,
    is sent, the status is 200: what goes wrong then is told by an event."""

    @model_validator(mode="after")
    def _decoders_suffice(self) -> Self:
        taken = self.decode_workers + self.decode_queue
        if self.max_instances > taken:
            raise ValueError(
                f"MAX_INSTANCES is {self.max_instances}, DECODE_WORKERS and DECODE_QUEUE together take {taken} recordings"
            )
        return self

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


def pipeline(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """`--pipeline` or PIPELINE, as `serving.settings` reads them, before it is known whose settings the other flags are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--pipeline", default=environment.get("PIPELINE", ""))
    return str(parser.parse_known_args(argv)[0].pipeline)
