"""What the decoder pool and its worker processes say to each other, over one UNIX socket each.

A job is one JSON object with the file's descriptor beside it (SCM_RIGHTS); the answers are messages of a kind, a length and
that many bytes. Standard library only: the worker imports this before anything else, and starts fast for it.
"""

import enum
import struct
from typing import Final, TypedDict

SAMPLE_RATE: Final = 16_000
"""Samples per second of every decoded block; what Whisper, the Kaldi models and Silero VAD work at."""
HEADER: Final = struct.Struct("<cI")
"""Before each message of a worker: its kind, then the length of its payload."""
MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Longest payload; a block of one second takes 64 kB. A worker that announces more is broken."""


class Kind(bytes, enum.Enum):
    """What a message of a worker is."""

    READY = b"R"
    """It can take a job."""
    INFO = b"I"
    """The file was opened: JSON of `Info`."""
    BLOCK = b"B"
    """Samples: little-endian float32, mono, at `SAMPLE_RATE`, in [-1, 1]."""
    END = b"E"
    """The file was decoded whole: JSON of `End`."""
    REFUSED = b"X"
    """The file is not decoded (any further): JSON of `Refusal`."""


class Job(TypedDict):
    """What to do with the file whose descriptor comes along."""

    channel: int | None
    """The channel to decode alone, from 0; None mixes all of them."""
    max_seconds: float
    """Longest audio; 0 for no limit."""
    max_channels: int


class Info(TypedDict):
    """What a file says of itself."""

    channels: int


class End(TypedDict):
    """How decoding went."""

    corrupt_packets: int
    """Damaged packets that were left out."""


class Refusal(TypedDict):
    """Why a file is refused: an HTTP status of `serving.errors`, a stable word, a text for the client."""

    status: int
    code: str
    message: str
    fatal: bool
    """Whether the worker is of no further use."""
