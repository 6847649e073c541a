"""What the decoder pool and its worker processes say to each other, on top of `serving.workers.wire`.

A job has a descriptor beside it: the recording, or the socket by which it comes while it is made. Standard library only: the
worker starts fast for it.
"""

import enum
from typing import Final, TypedDict

SAMPLE_RATE: Final = 16_000
"""Samples per second of every decoded block; what Whisper, the Kaldi models and Silero VAD work at."""


class Kind(bytes, enum.Enum):
    """What a message of a worker is."""

    INFO = b"I"
    """The file was opened: JSON of `Info`."""
    BLOCK = b"B"
    """Samples: little-endian float32, mono, at `SAMPLE_RATE`, in [-1, 1]."""
    MORE = b"M"
    """Of a live recording everything so far is decoded: no payload. A packet of its socket is the answer."""
    END = b"E"
    """The file was decoded whole: JSON of `End`."""


MAX_PIECE_BYTES: Final = 1 << 16
"""Longest packet of a live recording."""


class Job(TypedDict):
    """What to do with the file whose descriptor comes along."""

    live: bool
    """Whether it comes while it is made: it is decoded as far as it is there, without looking ahead or at its end."""

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
