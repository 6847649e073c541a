"""What is asked of one window, checked against what a captioner can do: its audio, style, search. No model is touched here."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import CaptionInput, Samples
from serving.errors import InvalidInput

RATE = 16_000
MAX_SECONDS = 30
"""Both models hear 30 s; a longer window also ends vLLM's engine (vllm-project/vllm#56912)."""
PROMPT_STYLE = "prompt"
"""Qwen2-Audio's only style: what CAPTION_PROMPT asks for."""
WHISPER_STYLES = ("clotho", "audiocaps", "audioset")
_SAMPLES_TEMPERATURE = 0.7  # Qwen2-Audio-7B-Instruct's own generation_config.json


@dataclass(frozen=True)
class Search:
    """How captions are looked for; windows with equal ones share a batch.

    At temperature 0 by beams, of which there are at least as many as captions; above it captions are samples.
    """

    style: str
    num_captions: int
    max_tokens: int
    temperature: float
    beam_size: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A window that is to be captioned: mono float32 samples [S] at 16 kHz, S <= 480 000."""

    samples: Samples
    search: Search

    @property
    def is_empty(self) -> bool:
        """Whether there is no sound at all: no samples, or zeros alone."""
        return not self.samples.any()


def batch_key(item: CaptionInput, settings: CaptionSettings) -> Hashable:
    """Windows with the same search share a batch; so do those that will be refused."""
    try:
        return search_of(item, settings)
    except InvalidInput:
        return None


def plan(item: CaptionInput, settings: CaptionSettings) -> Plan:
    """The window and its search. Raises InvalidInput for what the model cannot do, with what it can."""
    if item.options.sample_rate != RATE:
        raise InvalidInput(
            f"sample_rate is {item.options.sample_rate}, the model hears {RATE} samples a second", param="sample_rate"
        )
    seconds = len(item.samples) / RATE
    if seconds > MAX_SECONDS:
        raise InvalidInput(
            f"the window has {seconds:.3f} s, the model hears at most {MAX_SECONDS} s at a time", param="AUDIO"
        )
    return Plan(item.samples, search_of(item, settings))


def search_of(item: CaptionInput, settings: CaptionSettings) -> Search:
    """What the options and settings ask for. Raises InvalidInput."""
    asked = item.options
    on_vllm = settings.backend == "vllm"
    styles: Sequence[str] = (PROMPT_STYLE,) if on_vllm else WHISPER_STYLES
    style = asked.style or (PROMPT_STYLE if on_vllm else settings.style)
    if style not in styles:
        raise InvalidInput(f"style {style!r} is not known to this model, it has: {', '.join(styles)}", param="style")
    if on_vllm and (asked.beam_size or 1) > 1:
        raise InvalidInput("this model samples, it has no beams: leave beam_size out", param="beam_size")
    several = asked.num_captions > 1
    temperature = asked.temperature if asked.temperature is not None else settings.temperature
    if temperature is None:
        temperature = _SAMPLES_TEMPERATURE if on_vllm and several else 0.0
    if on_vllm and several and temperature == 0:
        raise InvalidInput(
            "several captions of this model are samples: num_captions above 1 needs a temperature above 0",
            param="temperature",
        )
    beams = 1 if temperature else max(asked.beam_size or settings.beams(), asked.num_captions)
    return Search(style, asked.num_captions, asked.max_tokens or settings.max_tokens, temperature, beams)
