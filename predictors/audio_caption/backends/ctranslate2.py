"""The fine-tuned Whisper on CTranslate2, int8 on CPU: batches, beams and samples are the library's own."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from predictors.audio_caption import weights
from predictors.audio_caption.captioner import Hypothesis
from predictors.audio_caption.features import Features
from predictors.audio_caption.plans import Search
from predictors.audio_caption.settings import CaptionSettings
from predictors.audio_caption.tokens import START, Tokens
from serving.hardware import choose_device

if TYPE_CHECKING:
    import ctranslate2


class CTranslate2Backend:
    """See `predictors.audio_caption.captioner.Backend`."""

    device = "cpu"
    tokens: Tokens
    mels: int

    def __init__(self, settings: CaptionSettings):
        self._settings = settings
        self._model: ctranslate2.models.Whisper

    def load(self) -> None:
        """Loads a CTranslate2 folder, or converts a Hugging Face one first."""
        import ctranslate2  # noqa: PLC0415  # heavy libraries are imported when they are needed

        settings = self._settings
        self.device = choose_device(settings.device, ctranslate2.get_cuda_device_count() > 0, "CTranslate2")
        dtype = settings.dtype if settings.dtype != "auto" else "int8" if self.device == "cpu" else "float16"
        if dtype not in ctranslate2.get_supported_compute_types(self.device):
            raise ValueError(
                f"DTYPE={dtype} is not possible on this {self.device} with ctranslate2; set int8 or float32"
            )
        folder = weights.for_ctranslate2(settings.model_id, dtype)
        self.tokens = Tokens.of(folder)
        try:
            self._model = ctranslate2.models.Whisper(
                str(folder), device=self.device, compute_type=dtype, intra_threads=settings.threads()
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"MODEL_ID={settings.model_id} cannot be loaded: {error}") from None
        self.mels = int(self._model.n_mels)

    def encode(self, features: Features) -> Any:
        """A StorageView [N, 1500, width] on the model's device."""
        import ctranslate2  # noqa: PLC0415

        return self._model.encode(ctranslate2.StorageView.from_array(features))

    def generate(self, encoded: Any, prompt: Sequence[int], search: Search) -> list[list[Hypothesis]]:
        """As the protocol has it. Of the prompt CTranslate2 gives back what follows the special tokens: the style.

        It ranks what its beams found by the mean over style and caption, which prefers short captions to probable ones; so all
        of it is asked for and ranked here.
        """
        style = len(prompt) - len(START)
        if search.temperature > 0:
            how: dict[str, Any] = {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": search.temperature}
            how["num_hypotheses"] = search.num_captions
        else:
            how = {"beam_size": search.beam_size, "num_hypotheses": search.beam_size}
        results = self._model.generate(
            encoded,
            [list(prompt)] * encoded.shape[0],
            max_length=2 * (style + search.max_tokens),  # the library lets a text be no longer than half of this
            suppress_tokens=list(self.tokens.suppressed),
            suppress_blank=True,
            return_scores=True,
            **how,
        )
        return [self._best(result, style, search) for result in results]

    def _best(self, result: Any, style: int, search: Search) -> list[Hypothesis]:
        """The `search.num_captions` best of what was found, without the style's tokens."""
        found = [
            (said[style:], _score(score, len(said), len(said) - style, search))
            for said, score in zip(result.sequences_ids, result.scores, strict=True)
        ]
        return sorted(found, key=lambda hypothesis: -hypothesis[1])[: search.num_captions]

    def close(self) -> None:
        """Frees the weights."""
        self._model.unload_model()


def _score(mean: float, counted: int, said: int, search: Search) -> float:
    """The geometric mean over a caption. The library counts the style, and not the end of a caption that was not cut off."""
    return math.exp(mean * counted / (said + (said < search.max_tokens)))
