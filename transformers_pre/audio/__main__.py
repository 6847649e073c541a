"""`python -m transformers_pre.audio --model_name NAME --predictor_host HOST`: the audio transformer's pod."""

from serving.dialects import openai_body
from serving.server import serve
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.model import SpeechTransformer
from transformers_pre.audio.predictor import KnownPredictor
from transformers_pre.audio.routes import limits, openai, whisper_service
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber


def main() -> None:
    """Entry point."""
    settings = AudioSettings.from_command_line()
    client = KnownPredictor(
        settings.predictor_host,
        settings.predictor_model_name or settings.model_name,
        use_ssl=settings.predictor_use_ssl,
        connections=settings.hop_connections,
        retry_seconds=settings.hop_retry_seconds,
    )
    media = DecoderPool(settings.media_limits())
    transcriber = Transcriber(client, media, settings)
    model = SpeechTransformer(transcriber, client, media, settings)
    routers = [
        openai.router(transcriber, settings, ready=lambda: bool(model.ready)),
        whisper_service.router(transcriber, settings),
        limits.router(settings),
    ]
    dialects = dict.fromkeys(openai.PREFIXES, openai_body)
    dialects |= dict.fromkeys(whisper_service.PREFIXES, whisper_service.error_body)
    serve(model, settings, routers=routers, dialects=dialects)


if __name__ == "__main__":
    main()
