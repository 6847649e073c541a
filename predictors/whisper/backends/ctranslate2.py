"""Whisper on CTranslate2, loaded by faster-whisper, decoded in batches.

faster-whisper's own `transcribe` decodes window after window, its `BatchedInferencePipeline` has no temperature ladder
and no timestamps of segments by default; here CTranslate2 is called directly with both. Features, tokenizer, suppressed
tokens and word alignment are faster-whisper's.
"""

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from predictors.whisper import weights
from predictors.whisper.fallback import Decoding
from predictors.whisper.segments import Span, Vocabulary
from predictors.whisper.settings import Dtype, WhisperSettings
from predictors.whisper.windows import Abilities, Window
from serving.contracts.asr import Samples, Task, Word
from serving.hardware import choose_device

if TYPE_CHECKING:
    import ctranslate2
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

_SEED = 0
FRAMES = 3000
"""Frames of 10 ms in a padded window."""
FRAMES_PER_SECOND = 100
ENCODED_AT_ONCE = 2
"""Windows that the encoder gets at a time on CPU. Each takes heads x 1500 x 1500 float32 for its attention, 72 MB of
Whisper-base and 144 MB of medium, in every worker; more windows at a time are no faster (README.md)."""
PLACE_SECONDS = 1000
"""Distance of windows on the time line that words are aligned on; more than a window, and as if a pause was before it."""


class CTranslate2Backend:
    """See `predictors.whisper.recognizer.Backend`; an encoding is CTranslate2's array [N, 1500, width]."""

    device = "cpu"
    workers = 1
    abilities: Abilities
    vocabulary: Vocabulary

    def __init__(self, settings: WhisperSettings):
        self._settings = settings
        self._model: WhisperModel
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}

    def load(self) -> None:
        """Loads the model. On CPU two workers share its weights, and each may use every thread.

        Between the matrix products of a decoding step CTranslate2 runs on one thread; the other worker fills that time.
        Two workers take 0.73 to 0.77 of the time of one on batches of 4, and as long on a single window (README.md).
        """
        import ctranslate2  # noqa: PLC0415  # heavy libraries are imported when they are needed
        from faster_whisper import WhisperModel  # noqa: PLC0415
        from faster_whisper.feature_extractor import FeatureExtractor  # noqa: PLC0415

        self.device = choose_device(self._settings.device, ctranslate2.get_cuda_device_count() > 0, "CTranslate2")
        ctranslate2.set_random_seed(_SEED)  # of each worker's samples; else from the system's noise
        folder = weights.with_alignment_heads(weights.for_ctranslate2(self._settings.model_id))
        threads = self._settings.threads()
        self.workers = 2 if self.device == "cpu" and threads > 1 else 1
        try:
            self._model = WhisperModel(
                str(folder),
                device=self.device,
                compute_type=_compute_type(self._settings.dtype, self.device),
                cpu_threads=threads,
                num_workers=self.workers,
            )
        except RuntimeError as error:
            raise ValueError(f"MODEL_ID={self._settings.model_id} cannot be loaded: {error}") from None
        defaults = signature(WhisperModel.transcribe).parameters
        self._punctuation = [defaults[f"{side}_punctuations"].default for side in ("prepend", "append")]
        engine = self._model.model
        # A folder without preprocessor_config.json says nothing of 128 mel bands; the weights do.
        self._model.feature_extractor = FeatureExtractor(feature_size=engine.n_mels)
        self._describe(engine.is_multilingual)

    def _describe(self, multilingual: bool) -> None:
        from faster_whisper.transcribe import get_suppressed_tokens  # noqa: PLC0415

        hf_tokenizer = self._model.hf_tokenizer
        known = [
            code for code in self._model.supported_languages if hf_tokenizer.token_to_id(f"<|{code}|>") is not None
        ]
        self.abilities = Abilities(
            tuple(known) if multilingual else ("en",),
            multilingual,
            encode=lambda text: hf_tokenizer.encode(text, add_special_tokens=False).ids,
            context=self._model.max_length,
        )
        tokenizer = self._tokenizer("en", "transcribe")
        self._suppressed = get_suppressed_tokens(tokenizer, [-1])
        self.vocabulary = Vocabulary(tokenizer.eot, tokenizer.timestamp_begin, tokenizer.decode)

    def encode(self, samples: Sequence[Samples]) -> "ctranslate2.StorageView":
        """Log-mel features, padded with zeros as faster-whisper does, through the encoder."""
        import ctranslate2  # noqa: PLC0415

        extract = self._model.feature_extractor
        features = np.zeros((len(samples), len(extract.mel_filters), FRAMES), np.float32)
        for row, window in zip(features, samples, strict=True):
            frames = extract(window)[:, :-1][:, :FRAMES]  # the last one only sees what the extractor appends
            row[:, : frames.shape[1]] = frames
        step = ENCODED_AT_ONCE if self.device == "cpu" else len(features)
        parts = [
            self._model.model.encode(ctranslate2.StorageView.from_array(features[start : start + step]))
            for start in range(0, len(features), step)
        ]
        if len(parts) == 1:
            return parts[0]
        return ctranslate2.StorageView.from_array(np.concatenate([_array(part) for part in parts]))

    def detect(self, encoded: "ctranslate2.StorageView") -> list[tuple[str, float]]:
        """The most probable language of each window."""
        best = (candidates[0] for candidates in self._model.model.detect_language(encoded))
        return [(token.strip("<|>"), probability) for token, probability in best]

    def decode(
        self, encoded: "ctranslate2.StorageView", rows: Sequence[int], parts: Sequence[Window], temperature: float
    ) -> list[Decoding]:
        """One call for all: prompts of a batch may differ in language and task, not in length."""
        first = parts[0]
        if temperature > 0:
            search: dict[str, Any] = {
                "beam_size": 1,
                "num_hypotheses": first.best_of,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }
        else:
            search = {"beam_size": first.beam_size}
        results = self._model.model.generate(
            _rows(encoded, rows),
            [self._prompt(window) for window in parts],
            max_length=self.abilities.context,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=self._suppressed,
            **search,
        )
        return [self._decoding(result, temperature) for result in results]

    def _decoding(self, result: Any, temperature: float) -> Decoding:
        tokens = tuple(result.sequences_ids[0])
        # The score is the mean over the tokens without the end; openai-whisper counts it.
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        return Decoding(tokens, self.vocabulary.text(tokens), logprob, result.no_speech_prob, temperature)

    def align(
        self,
        encoded: "ctranslate2.StorageView",
        rows: Sequence[int],
        parts: Sequence[Window],
        spans: Sequence[Sequence[Span]],
    ) -> list[list[list[Word]]]:
        """faster-whisper's word times; it also trims words that are too long at the ends of a segment.

        Its rules look at the pause since the last word, so every window gets a place far from the others' on one time
        line: the words of a window do not depend on its batch.
        """
        words: list[list[list[Word]]] = [[] for _ in rows]
        for language, task in dict.fromkeys((window.language, window.task) for window in parts):
            chosen = [i for i, window in enumerate(parts) if (window.language, window.task) == (language, task)]
            timed = [_on_time_line(place, spans[i]) for place, i in enumerate(chosen, start=1)]
            self._model.add_word_timestamps(
                timed,
                self._tokenizer(language or "en", task),
                _rows(encoded, [rows[i] for i in chosen]),
                [parts[i].frames for i in chosen],
                *self._punctuation,
                last_speech_timestamp=0.0,
            )
            for place, i in enumerate(chosen, start=1):
                words[i] = _off_time_line(place, timed[place - 1])
        return words

    def close(self) -> None:
        """Frees the weights."""
        self._model.model.unload_model()

    def _prompt(self, window: Window) -> list[int]:
        tokenizer = self._tokenizer(window.language or "en", window.task)
        before = [tokenizer.sot_prev, *window.previous] if window.previous else []
        after = [] if window.timestamps else [tokenizer.no_timestamps]
        return [*before, *tokenizer.sot_sequence, *after]

    def _tokenizer(self, language: str, task: Task) -> "Tokenizer":
        from faster_whisper.tokenizer import Tokenizer  # noqa: PLC0415

        if (language, task) not in self._tokenizers:
            self._tokenizers[language, task] = Tokenizer(
                self._model.hf_tokenizer, self.abilities.multilingual, task=task, language=language
            )
        return self._tokenizers[language, task]


def _rows(encoded: "ctranslate2.StorageView", rows: Sequence[int]) -> "ctranslate2.StorageView":
    """Some windows of an encoding. CTranslate2 has no slices; the copy goes through the host, and back when it is used."""
    import ctranslate2  # noqa: PLC0415

    if list(rows) == list(range(encoded.shape[0])):
        return encoded
    return ctranslate2.StorageView.from_array(_array(encoded)[list(rows)])


def _array(encoded: "ctranslate2.StorageView") -> npt.NDArray[np.float32]:
    """An encoding on the host, in float32: NumPy has no bfloat16."""
    import ctranslate2  # noqa: PLC0415

    host = encoded.to_device(ctranslate2.Device.cpu) if encoded.device != "cpu" else encoded
    return np.asarray(host.to(ctranslate2.DataType.float32))


def _on_time_line(place: int, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The spans of a window as faster-whisper has them, moved to their place."""
    offset = place * PLACE_SECONDS
    return [
        {
            "tokens": list(span.tokens),
            "start": offset + span.start,
            "end": offset + span.end,
            "seek": offset * FRAMES_PER_SECOND,
        }
        for span in spans
    ]


def _off_time_line(place: int, timed: Sequence[dict[str, Any]]) -> list[list[Word]]:
    offset = place * PLACE_SECONDS
    return [
        [
            Word(
                word=word["word"],
                start=max(0.0, round(word["start"] - offset, 3)),
                end=round(word["end"] - offset, 3),
                probability=word["probability"],
            )
            for word in span["words"]
        ]
        for span in timed
    ]


def _compute_type(dtype: str, device: str) -> str:
    """CTranslate2's name of the arithmetic. Raises ValueError where this device has not got it."""
    import ctranslate2  # noqa: PLC0415

    if dtype == "auto":
        return "float16" if device == "cuda" else "int8"
    supported = ctranslate2.get_supported_compute_types(device) & set(get_args(Dtype))
    if dtype not in supported:
        raise ValueError(f"DTYPE={dtype} is not possible on this {device}; it can do {', '.join(sorted(supported))}")
    return dtype
