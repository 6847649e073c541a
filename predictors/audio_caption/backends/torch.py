"""The fine-tuned Whisper on torch, by transformers: the way of the published code, less its class, which transformers 5 breaks.

`WhisperForConditionalGeneration.generate` plans a transcription (language, task, timestamps) and refuses the published
checkpoint's outdated generation_config.json; `GenerationMixin.generate` only decodes, from the prompt that it is given.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from predictors.audio_caption import weights
from predictors.audio_caption.captioner import Hypothesis
from predictors.audio_caption.features import Features
from predictors.audio_caption.plans import Search
from predictors.audio_caption.settings import CaptionSettings
from predictors.audio_caption.tokens import Tokens
from serving.hardware import choose_device

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperForConditionalGeneration


class TorchBackend:
    """See `predictors.audio_caption.captioner.Backend`."""

    device = "cpu"
    tokens: Tokens
    mels: int

    def __init__(self, settings: CaptionSettings):
        self._settings = settings
        self._model: WhisperForConditionalGeneration

    def load(self) -> None:
        """Loads a Hugging Face folder: float16 on GPU unless DTYPE says otherwise, float32 on CPU."""
        import torch  # noqa: PLC0415  # heavy libraries are imported when they are needed
        from transformers import GenerationConfig, WhisperForConditionalGeneration  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        settings = self._settings
        self.device = choose_device(settings.device, torch.cuda.is_available(), "torch")
        if settings.dtype == "float16" and self.device == "cpu":
            raise ValueError("DTYPE=float16 needs a GPU with BACKEND=torch; on CPU set bfloat16 or float32")
        dtype = settings.dtype if settings.dtype != "auto" else "float32" if self.device == "cpu" else "float16"
        folder = weights.for_torch(settings.model_id)
        self.tokens = Tokens.of(folder)
        torch.set_num_threads(settings.threads())
        logging.disable_progress_bar()  # the log is JSON
        try:
            model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"MODEL_ID={settings.model_id} cannot be loaded: {reason}") from None
        self.mels = int(model.config.num_mel_bins)
        self._model = model.eval().to(self.device)
        self._model.generation_config = (
            GenerationConfig()
        )  # the folder's own is of another time; ours comes with each call

    def encode(self, features: Features) -> Any:
        """A BaseModelOutput of transformers, [N, 1500, width] on the model's device."""
        import torch  # noqa: PLC0415

        mel = torch.from_numpy(features).to(self.device, self._model.dtype)
        with torch.inference_mode():
            return self._model.model.encoder(mel)

    def generate(self, encoded: Any, prompt: Sequence[int], search: Search) -> list[list[Hypothesis]]:
        """As the protocol has it."""
        import torch  # noqa: PLC0415
        from transformers import GenerationMixin  # noqa: PLC0415

        before = torch.tensor([list(prompt)] * len(encoded.last_hidden_state), device=self.device)
        with torch.inference_mode():
            found = GenerationMixin.generate(
                self._model,
                encoder_outputs=encoded,
                decoder_input_ids=before,
                decoder_attention_mask=torch.ones_like(before),
                generation_config=self._config(search),
            )
            scores = self._scores(found, search)
        said = found.sequences[:, before.shape[1] :].tolist()
        hypotheses = list(zip(said, scores, strict=True))
        count = search.num_captions
        return [hypotheses[start : start + count] for start in range(0, len(hypotheses), count)]

    def _config(self, search: Search) -> "GenerationConfig":
        from transformers import GenerationConfig  # noqa: PLC0415

        how: dict[str, Any] = {"do_sample": False, "num_beams": search.beam_size}
        if search.temperature > 0:
            how = {"do_sample": True, "temperature": search.temperature, "top_k": 0, "num_beams": 1}
        return GenerationConfig(
            max_new_tokens=search.max_tokens,
            num_return_sequences=search.num_captions,
            suppress_tokens=list(self.tokens.suppressed) or None,
            begin_suppress_tokens=list(self.tokens.begin_suppressed),
            eos_token_id=self.tokens.end,
            pad_token_id=self.tokens.end,
            decoder_start_token_id=self._model.config.decoder_start_token_id,
            renormalize_logits=True,  # else beams are charged for the suppressed tokens, greedy steps are not
            return_dict_in_generate=True,
            output_scores=True,
            **how,
        )

    def _scores(self, found: Any, search: Search) -> list[float]:
        """The geometric mean of what the model gave each token of a caption, its end included, whatever the temperature."""
        scores = tuple(step.float() * (search.temperature or 1.0) for step in found.scores)
        steps = self._model.compute_transition_scores(
            found.sequences, scores, getattr(found, "beam_indices", None), normalize_logits=True
        )
        said = found.sequences[:, -steps.shape[1] :]
        ended = (said == self.tokens.end).cumsum(dim=1)
        counted = (ended == 0) | ((ended == 1) & (said == self.tokens.end))
        means = steps.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)
        return [float(score) for score in means.exp()]

    def close(self) -> None:
        """Frees the weights."""
        del self._model
