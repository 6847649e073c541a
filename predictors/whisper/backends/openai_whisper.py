"""Whisper on openai-whisper, the original library, on torch.

Its `transcribe` decodes window after window; here windows are encoded in batches and decoded with its own decoding task.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from predictors.whisper import weights
from predictors.whisper.checkpoint import alignment_heads, pack_heads
from predictors.whisper.fallback import Decoding
from predictors.whisper.segments import Span, Vocabulary
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.windows import SAMPLES_PER_FRAME, Abilities, Window
from serving.contracts.asr import Samples, Task, Word
from serving.hardware import choose_device
from serving.hub import downloaded

if TYPE_CHECKING:
    import torch
    from whisper import Whisper
    from whisper.tokenizer import Tokenizer

FRAMES = 3000
"""Frames of 10 ms in a padded window."""
PAUSE_SECONDS = 1000.0
"""Silence before a window as the rules for its first word see it; what was said before is not known here."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Log-mel features [N, mels, 3000] and the encoder's output [N, 1500, width], on the device."""

    mel: "torch.Tensor"
    features: "torch.Tensor"


class OpenAiWhisperBackend:
    """See `predictors.whisper.recognizer.Backend`."""

    device = "cpu"
    workers = 1
    abilities: Abilities
    vocabulary: Vocabulary

    def __init__(self, settings: WhisperSettings):
        self._settings = settings
        self._model: Whisper
        self._half = False

    def load(self) -> None:
        """Loads the model: float16 on GPU unless DTYPE says float32, float32 on CPU."""
        import torch  # noqa: PLC0415  # heavy libraries are imported when they are needed

        settings = self._settings
        self.device = choose_device(settings.device, torch.cuda.is_available(), "torch")
        if settings.dtype == "float16" and self.device == "cpu":
            raise ValueError("DTYPE=float16 needs a GPU with BACKEND=openai_whisper; on CPU it computes in float32")
        self._half = self.device == "cuda" and settings.dtype != "float32"
        torch.set_num_threads(settings.threads())
        self._model = _model(weights.for_openai_whisper(settings.model_id), settings.model_id, self.device)
        self._describe()

    def _describe(self) -> None:
        tokenizer = self._tokenizer("en", "transcribe")
        multilingual = self._model.is_multilingual
        self.abilities = Abilities(
            tuple(tokenizer.all_language_codes) if multilingual else ("en",),
            multilingual,
            tokenizer.encode,
            self._model.dims.n_text_ctx,
        )
        self.vocabulary = Vocabulary(tokenizer.eot, tokenizer.timestamp_begin, tokenizer.decode)

    def encode(self, samples: Sequence[Samples]) -> Encoded:
        """Log-mel features, padded with zeros as `whisper.transcribe` does, through the encoder."""
        import torch  # noqa: PLC0415
        from whisper.audio import N_FFT, log_mel_spectrogram, pad_or_trim  # noqa: PLC0415

        rows = []
        for window in samples:
            audio = torch.tensor(window, device=self.device)  # a copy: a request's samples are read-only
            mel = log_mel_spectrogram(audio, self._model.dims.n_mels, padding=N_FFT)
            rows.append(pad_or_trim(mel[:, : len(window) // SAMPLES_PER_FRAME], FRAMES))
        mels = torch.stack(rows)
        if self._half:
            mels = mels.half()
        with torch.no_grad():
            return Encoded(mels, self._model.embed_audio(mels))

    def detect(self, encoded: Encoded) -> list[tuple[str, float]]:
        """The most probable language of each window."""
        _, found = self._model.detect_language(encoded.features, self._tokenizer("en", "transcribe"))
        return [max(probabilities.items(), key=lambda item: item[1]) for probabilities in found]

    def decode(
        self, encoded: Encoded, rows: Sequence[int], parts: Sequence[Window], temperature: float
    ) -> list[Decoding]:
        """One decoding task for neighbours of the same language and task.

        With beams or several candidates each window is a task of its own: the library repeats the tokens of a window for
        them but not its features, which only works for one window, and repeating those costs more memory than it saves
        time.
        """
        first = parts[0]
        groups = first.beam_size > 1 if temperature == 0 else first.best_of > 1
        keys = [(index if groups else 0, window.language, window.task) for index, window in enumerate(parts)]
        found = []
        for _, alike in itertools.groupby(range(len(parts)), key=keys.__getitem__):
            chosen = list(alike)
            found += self._decode(encoded, [rows[index] for index in chosen], parts[chosen[0]], temperature)
        return found

    def _decode(self, encoded: Encoded, rows: list[int], window: Window, temperature: float) -> list[Decoding]:
        from whisper.decoding import DecodingOptions, DecodingTask  # noqa: PLC0415

        options = DecodingOptions(
            task=window.task,
            language=window.language,
            temperature=temperature,
            beam_size=window.beam_size if temperature == 0 and window.beam_size > 1 else None,
            best_of=window.best_of if temperature > 0 else None,
            prompt=list(window.previous),
            without_timestamps=not window.timestamps,
            fp16=self._half,
        )
        return [
            Decoding(
                tuple(result.tokens),
                self.vocabulary.text(result.tokens),
                result.avg_logprob,
                result.no_speech_prob,
                temperature,
            )
            for result in DecodingTask(self._model, options).run(encoded.features[rows])
        ]

    def align(
        self, encoded: Encoded, rows: Sequence[int], parts: Sequence[Window], spans: Sequence[Sequence[Span]]
    ) -> list[list[list[Word]]]:
        """The library's word times; it also trims words that are too long at the ends of a segment."""
        return [self._align(encoded.mel[row], window, own) for row, window, own in zip(rows, parts, spans, strict=True)]

    def _align(self, mel: "torch.Tensor", window: Window, spans: Sequence[Span]) -> list[list[Word]]:
        from whisper.timing import add_word_timestamps  # noqa: PLC0415

        timed: list[dict[str, Any]] = [
            {"tokens": list(span.tokens), "start": span.start, "end": span.end, "seek": 0} for span in spans
        ]
        add_word_timestamps(
            segments=timed,
            model=self._model,
            tokenizer=self._tokenizer(window.language or "en", window.task),
            mel=mel,
            num_frames=window.frames,
            last_speech_timestamp=-PAUSE_SECONDS,
        )
        return [[Word(**word) for word in span["words"]] for span in timed]

    def close(self) -> None:
        """Frees the weights."""
        import torch  # noqa: PLC0415

        del self._model
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _tokenizer(self, language: str, task: Task) -> "Tokenizer":
        from whisper.tokenizer import get_tokenizer  # noqa: PLC0415

        model = self._model
        return get_tokenizer(model.is_multilingual, num_languages=model.num_languages, language=language, task=task)


def _model(checkpoint: weights.Checkpoint, model_id: str, device: str) -> "Whisper":
    import whisper  # noqa: PLC0415

    if checkpoint.name in whisper.available_models():
        return downloaded(model_id, lambda: whisper.load_model(checkpoint.name, device))
    try:
        model = whisper.load_model(checkpoint.name, device)
    except (KeyError, TypeError, RuntimeError, EOFError, UnpicklingError):
        raise ValueError(f"MODEL_ID={model_id} is no checkpoint of openai-whisper") from None
    if checkpoint.alignment_heads:
        dims = model.dims
        size = dims.n_text_layer, dims.n_text_head
        model.set_alignment_heads(pack_heads(alignment_heads(checkpoint.alignment_heads, *size), *size))
    return model
