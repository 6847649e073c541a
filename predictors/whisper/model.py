"""The engine of a Whisper pod, from its settings."""

from typing import Any

from predictors.whisper.recognizer import WhisperRecognizer
from predictors.whisper.settings import WhisperSettings
from serving.contracts.asr import AsrInput, AsrResult
from serving.engine import ConcurrentEngine


def engine(settings: WhisperSettings) -> WhisperRecognizer[Any] | ConcurrentEngine[AsrInput, AsrResult]:
    """The recogniser on the backend that BACKEND names. Nothing is loaded yet, and only that backend's file is imported."""
    if settings.backend == "openai_whisper":
        from predictors.whisper.backends.openai_whisper import OpenAiWhisperBackend  # noqa: PLC0415  # see above

        return WhisperRecognizer(OpenAiWhisperBackend(settings), settings)
    if settings.backend == "vllm":
        from predictors.whisper.backends.vllm import VllmRecognizer  # noqa: PLC0415

        return VllmRecognizer(settings)
    from predictors.whisper.backends.ctranslate2 import CTranslate2Backend  # noqa: PLC0415

    return WhisperRecognizer(CTranslate2Backend(settings), settings)
