"""The engine of a captioning pod, from its settings."""

from predictors.audio_caption.captioner import WhisperCaptioner
from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import CaptionInput, CaptionResult
from serving.engine import ConcurrentEngine


def engine(settings: CaptionSettings) -> WhisperCaptioner | ConcurrentEngine[CaptionInput, CaptionResult]:
    """The captioner on the backend that BACKEND names. Nothing is loaded yet, and only that backend's file is imported."""
    if settings.backend == "vllm":
        from predictors.audio_caption.backends.vllm import VllmCaptioner  # noqa: PLC0415  # see above

        return VllmCaptioner(settings)
    if settings.backend == "torch":
        from predictors.audio_caption.backends.torch import TorchBackend  # noqa: PLC0415

        return WhisperCaptioner(TorchBackend(settings), settings)
    from predictors.audio_caption.backends.ctranslate2 import CTranslate2Backend  # noqa: PLC0415

    return WhisperCaptioner(CTranslate2Backend(settings), settings)
