"""Settings of the audio transformer as it captions: how recordings are cut, and what counts as silence."""

from pydantic import Field

from transformers_pre.audio.recording_settings import RecordingSettings
from transformers_pre.audio.split import SplitLimits


class CaptionSettings(RecordingSettings):
    """The audio transformer, PIPELINE=caption: windows and silence, besides what every pipeline has."""

    caption_window_seconds: float = Field(30.0, ge=5.0, le=30.0)
    """Longest window that the predictor gets; 30 s is all that the models hear."""
    caption_search_seconds: float = Field(8.0, gt=0)
    """How far before a window's end the pause, or without one the quietest place, is looked for to cut at."""
    silence_dbfs: float = Field(-60.0, ge=-100.0, lt=0.0)
    """Level below which 32 ms are silent, in decibels of full scale (root mean square, without a constant offset). A window of
    nothing but silence has no caption and is not sent to the predictor. -60 is the noise of a quiet room, closely recorded."""

    def split_limits(self) -> SplitLimits:
        """The splitter's limits: sound takes the place of speech, and every chunk of it counts, a knock too.

        No context: a caption is of a window, and is not joined with the next one's.
        """
        return SplitLimits(
            max_seconds=self.caption_window_seconds,
            search_seconds=self.caption_search_seconds,
            context_seconds=0.0,
            forced_search_seconds=self.caption_search_seconds,
            min_speech_seconds=0.0,
            speech_pad_seconds=0.0,
        )
