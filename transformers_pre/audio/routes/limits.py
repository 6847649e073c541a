"""GET `/v1/limits` of the speech pipeline."""

from pydantic import Field

from serving.contracts.asr import MAX_BEAM_SIZE, MAX_BEST_OF, MAX_TEXT
from transformers_pre.audio.routes.recording_limits import RecordingLimits, SecondsOrNone


class Limits(RecordingLimits):
    """The limits of the audio transformer: its settings of the same names, in lower case, then what is no setting."""

    max_websocket_message_bytes: int
    """Largest message of a live connection."""
    stream_max_message_values: int
    """Most values and names in a text message of a live connection."""
    max_overlap_duration: float
    """Longest stretch of live speech that is held back for want of a pause, in seconds."""
    stream_max_connections: int
    """Live connections at a time."""
    stream_decoders: int
    """Live connections at a time that send containers, such as WebM."""
    stream_max_seconds: SecondsOrNone
    """Longest audio of a live connection; null for no limit."""
    stream_idle_seconds: float
    """Time that a live connection may last whose client sends no message, or reads none."""
    stream_session_seconds: SecondsOrNone
    """Time after which a live connection is told to come again; null for never."""
    window_seconds: float = Field(validation_alias="whisper_segment_duration_sec")
    """Longest stretch that is decoded at a time; WHISPER_SEGMENT_DURATION_SEC."""
    max_text_characters: int = MAX_TEXT
    """Longest `prompt`, and longest `hotwords`."""
    max_beam_size: int = MAX_BEAM_SIZE
    """Highest `beam_size`."""
    max_best_of: int = MAX_BEST_OF
    """Highest `best_of`."""
