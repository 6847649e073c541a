"""GET `/v1/limits` of the captioning transformer."""

from pydantic import Field

from serving.contracts.caption import MAX_BEAM_SIZE, MAX_CAPTIONS, MAX_TOKENS
from transformers_pre.audio.routes.recording_limits import RecordingLimits


class CaptionLimits(RecordingLimits):
    """The limits of the audio transformer: its settings of the same names, in lower case, then what is no setting."""

    window_seconds: float = Field(validation_alias="caption_window_seconds")
    """Longest stretch that is captioned at a time; CAPTION_WINDOW_SECONDS."""
    silence_dbfs: float
    """Level below which nothing is heard, in decibels of full scale."""
    max_num_captions: int = MAX_CAPTIONS
    """Most captions of a window, and most choices of a chat."""
    max_caption_tokens: int = MAX_TOKENS
    """Most tokens of a caption."""
    max_beam_size: int = MAX_BEAM_SIZE
    """Highest `beam_size`."""
