"""Offline models on sherpa-onnx: transducers (Vosk 5), NeMo CTC (GigaAM), Zipformer CTC, Paraformer, SenseVoice, Whisper.

The engine ends the process at much of what it does not like; `folder` has looked at the files, and what comes here per request
is checked before it is passed on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predictors.kaldi_asr.folder import ModelFolder, check_pieces
from predictors.kaldi_asr.settings import KaldiSettings
from predictors.kaldi_asr.words import from_tokens
from serving.contracts.asr import Samples, Word

_RATE = 16_000
_SHORTEST_SHARE = 0.8
"""Shortest to longest of windows that are decoded together: the library fills each up to the longest, and computes that too."""


class SherpaBackend:
    """One recogniser, for batches. Raises ValueError when the model or PROVIDER does not work."""

    def __init__(self, model: ModelFolder, settings: KaldiSettings):
        import sherpa_onnx  # noqa: PLC0415  # heavy libraries are imported when they are needed

        if settings.provider == "CUDA":
            _check_cuda(Path(sherpa_onnx.__file__).parent / "lib")
        beam = settings.decoding_method == "modified_beam_search"
        if beam and model.kind != "transducer":
            raise ValueError(
                f"DECODING_METHOD={settings.decoding_method} is for transducers, this model is a {model.kind}"
            )
        if model.languages and settings.language not in ("", *model.languages):
            known = ", ".join(sorted(model.languages))
            raise ValueError(f"LANGUAGE={settings.language} is none that this model knows; it knows {known}")
        if beam and "bpe_vocab" in model.files:
            check_pieces(model.files["bpe_vocab"])
        self.takes_hotwords = beam and "bpe_vocab" in model.files
        self.why_no_hotwords = (
            "the model's folder has no bpe.vocab"
            if beam
            else "they need a transducer and DECODING_METHOD=modified_beam_search"
        )
        try:
            self._recognizer = _recognizer(sherpa_onnx.OfflineRecognizer, model, settings)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise ValueError(
                f"MODEL_ID={settings.model_id}: sherpa-onnx cannot load the {model.kind}: {reason}"
            ) from None

    def recognise(self, batch: Sequence[Samples], rate: int, hotwords: Sequence[str]) -> list[tuple[str, list[Word]]]:
        """As `recognizer.Backend`."""
        streams = []
        for samples in batch:
            # Only where they are taken: a greedy search crashes on them, and a CTC model ends the process even at "".
            stream = (
                self._recognizer.create_stream(hotwords="/".join(hotwords))
                if hotwords
                else self._recognizer.create_stream()
            )
            stream.accept_waveform(rate, samples)
            streams.append(stream)
        for group in alike([len(samples) for samples in batch]):
            self._recognizer.decode_streams([streams[number] for number in group])
        return [_words(stream.result, len(samples) / rate) for stream, samples in zip(streams, batch, strict=True)]

    def close(self) -> None:
        """Frees the model."""
        del self._recognizer


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of windows with about the same length, group by group; each number once."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if groups and lengths[number] >= _SHORTEST_SHARE * lengths[groups[-1][0]]:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _recognizer(library: Any, model: ModelFolder, settings: KaldiSettings) -> Any:
    files = {role: str(file) for role, file in model.files.items()}
    common = {
        "tokens": files["tokens"],
        "num_threads": settings.threads(),
        "provider": settings.provider.lower(),
    }
    features = {"sample_rate": _RATE, "feature_dim": model.features}
    match model.kind:
        case "transducer":
            beam = settings.decoding_method == "modified_beam_search"
            units = {"modeling_unit": "bpe", "bpe_vocab": files.get("bpe_vocab", "")} if beam else {}
            parts = {role: files[role] for role in ("encoder", "decoder", "joiner")}
            return library.from_transducer(
                **parts,
                **common,
                **features,
                **units,
                decoding_method=settings.decoding_method,
                max_active_paths=settings.max_active_paths,
                hotwords_score=settings.hotwords_score,
            )
        case "nemo_ctc":
            return library.from_nemo_ctc(model=files["model"], **common, **features)
        case "zipformer_ctc":
            return library.from_zipformer_ctc(model=files["model"], **common, **features)
        case "sense_voice":
            return library.from_sense_voice(model=files["model"], **common, language=settings.language)
        case "paraformer":
            return library.from_paraformer(paraformer=files["model"], **common)
        case _:
            return library.from_whisper(
                encoder=files["encoder"],
                decoder=files["decoder"],
                **common,
                language=settings.language,
                enable_token_timestamps=True,
            )


def _check_cuda(libraries: Path) -> None:
    """The engine itself would go on, on the CPU, and say nothing."""
    if not list(libraries.glob("libonnxruntime_providers_cuda*")):
        raise ValueError(
            "PROVIDER=CUDA: this sherpa-onnx is built for CPU only; install its build for CUDA, or set PROVIDER=CPU"
        )
    if not Path("/dev/nvidiactl").exists():
        raise ValueError(
            "PROVIDER=CUDA: there is no NVIDIA GPU in this container; give the pod one, or set PROVIDER=CPU"
        )


def _words(result: Any, duration: float) -> tuple[str, list[Word]]:
    tokens, starts = list(result.tokens), list(result.timestamps)
    if len(starts) != len(tokens):  # models without times: the text alone
        return result.text, []
    return result.text, from_tokens(tokens, starts, duration, list(result.durations), list(result.ys_log_probs))
