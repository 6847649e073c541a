"""The pod that recognises speech: its parts, put together."""

from serving.dialects import openai_body
from serving.known_predictor import KnownPredictor
from serving.middleware import Drain
from serving.routes import BodyBudget
from serving.server import serve
from transformers_pre.audio.container_stream import ContainerPool
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.model import SpeechTransformer
from transformers_pre.audio.routes import openai, realtime, recording_limits, streaming, vosk, whisper_service
from transformers_pre.audio.routes.limits import Limits
from transformers_pre.audio.routes.live import LiveConnections
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber


def main() -> None:
    """Entry point."""
    settings = AudioSettings.from_command_line()
    client = KnownPredictor.of(settings)
    media = DecoderPool(settings.media_limits())
    containers = ContainerPool(settings.stream_decoders, settings.media_limits())
    transcriber = Transcriber(client, media, settings)
    model = SpeechTransformer(transcriber, client, media, containers, settings)
    drain, bodies = Drain(), BodyBudget(settings.max_bodies_bytes)
    connections = LiveConnections(settings, drain)
    routers = [
        openai.router(transcriber, settings, ready=lambda: bool(model.ready)),
        whisper_service.router(transcriber, settings),
        streaming.router(transcriber, settings, connections, containers, bodies),
        vosk.router(transcriber, settings, connections, containers),
        realtime.router(transcriber, settings, connections),
        recording_limits.router(Limits.model_validate(settings)),
    ]
    dialects = dict.fromkeys(openai.PREFIXES, openai_body)
    dialects |= dict.fromkeys(whisper_service.PREFIXES, whisper_service.error_body)
    dialects |= dict.fromkeys(streaming.PREFIXES, streaming.error_body)
    serve(model, settings, routers=routers, dialects=dialects, drain=drain, bodies=bodies)
