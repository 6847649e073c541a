"""What a client may ask of a description: the fields' names and what each accepts. How they arrive is `serving.uploads`."""

from typing import ClassVar

from pydantic import Field

from serving.contracts.caption import MAX_BEAM_SIZE, MAX_CAPTIONS, MAX_STYLE, MAX_TOKENS, CaptionOptions
from serving.uploads.form import Form
from transformers_pre.audio.caption.describer import DescriptionRequest
from transformers_pre.audio.caption.description import Summary
from transformers_pre.audio.source import Source


class CaptionForm(Form):
    """How a recording is to be described; also the parameters of a V1 or V2 request."""

    file: ClassVar[str] = "The recording: WAV, FLAC, MP3, OGG, Opus, M4A, WebM or another format that FFmpeg reads."

    style: str | None = Field(None, max_length=MAX_STYLE)
    """Way of captioning, by the model's own names: a fine-tuned Whisper has `clotho`, `audiocaps` and `audioset` (keywords)."""
    num_captions: int = Field(1, ge=1, le=MAX_CAPTIONS)
    """Captions of each window of up to 30 s."""
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """Most tokens of a caption."""
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    """Sampling temperature; 0 searches the most probable captions."""
    beam_size: int | None = Field(None, ge=1, le=MAX_BEAM_SIZE)
    """Beams of the search at temperature 0."""
    summary: Summary = "best"
    """What stands for a recording of several windows: the caption with the highest score (`best`), or all of them (`joined`)."""

    def request(self, source: Source) -> DescriptionRequest:
        """What the describer is asked to do with `source`."""
        options = CaptionOptions(
            style=self.style,
            num_captions=self.num_captions,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            beam_size=self.beam_size,
        )
        return DescriptionRequest(source, options, self.summary)
