"""Settings of the Kaldi-family predictor."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from serving.hardware import usable_cores
from serving.settings import PredictorSettings

Kind = Literal["auto", "transducer", "nemo_ctc", "zipformer_ctc", "paraformer", "sense_voice", "whisper", "vosk"]
_ORIGINAL_NAMES: dict[str, Kind] = {"vosk5": "transducer", "gigaam": "nemo_ctc"}


class KaldiSettings(PredictorSettings):
    """The Kaldi-family predictor: which model, where it runs, how it decodes."""

    model_id: str = Field("/mnt/models", min_length=1)
    """Folder of the model: an offline one of sherpa-onnx, such as Vosk 5 (`vosk-model-ru`) or GigaAM, or a classic Vosk model."""
    model_kind: Kind = "auto"
    """What the folder holds: `transducer`, `nemo_ctc`, `zipformer_ctc`, `paraformer`, `sense_voice`, `whisper` or `vosk`;
    `auto` finds out by its files. A MODEL_NAME of `Vosk5` or `Gigaam`, the original service's, is a transducer or NeMo CTC."""
    provider: Annotated[Literal["CPU", "CUDA"], BeforeValidator(lambda name: str(name).strip().upper())] = "CPU"
    """Where it runs, `CPU` or `CUDA`. CUDA needs a build of sherpa-onnx for it, and a GPU; without, the start is refused."""
    num_threads: int = Field(0, ge=0)
    """CPU threads; 0 takes every core that the container may use."""
    language: str = Field("ru", pattern="^([a-z]{2,3})?$")
    """Language code of the model: answers carry it, and requests for another are refused. Empty where the model tells it, or has
    several."""
    decoding_method: Literal["greedy_search", "modified_beam_search"] = "greedy_search"
    """Search of a transducer. Only `modified_beam_search` takes hotwords; it needs the model's `bpe.vocab` for them."""
    max_active_paths: int = Field(4, ge=1, le=64)
    """Paths of `modified_beam_search`."""
    hotwords_score: float = Field(1.5, ge=0.0, le=20.0)
    """How much a hotword is favoured, in log-probability a token."""
    tail_padding_seconds: float = Field(0.1, ge=0.0, le=5.0)
    """Silence added behind each window, so that a model that looks ahead gives its last word: at least the model's chunk."""
    recognition_attempts: Literal[1] = 1
    """Kept for the original's settings: a window is recognised once, since doing it again gives the same."""

    @model_validator(mode="after")
    def _original_name(self) -> Self:
        kind = _ORIGINAL_NAMES.get(self.model_name.lower())
        if kind is not None and self.model_kind == "auto":
            self.model_kind = kind
        return self

    @model_validator(mode="after")
    def _beams(self) -> Self:
        if self.decoding_method != "greedy_search" and self.model_kind not in ("auto", "transducer"):
            raise ValueError(
                f"DECODING_METHOD={self.decoding_method} is for transducers, MODEL_KIND is {self.model_kind}"
            )
        return self

    def threads(self) -> int:
        """NUM_THREADS, or the cores that this container may use."""
        return self.num_threads or usable_cores()
