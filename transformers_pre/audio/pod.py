"""The pod of the audio transformer: its parts, put together."""

import os
import sys

from serving import heap
from serving.dialects import openai_body
from serving.known_predictor import KnownPredictor
from serving.middleware import Drain
from serving.routes import BodyBudget
from serving.server import serve
from transformers_pre.audio.container_stream import ContainerPool
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.model import SpeechTransformer
from transformers_pre.audio.recording_settings import pipeline
from transformers_pre.audio.routes import openai, realtime, recording_limits, streaming, vosk, whisper_service
from transformers_pre.audio.routes.limits import Limits
from transformers_pre.audio.routes.live import LiveConnections
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber


def main() -> None:
    """Entry point: the pod of the pipeline that PIPELINE names."""
    heap.keep_buffers_apart()
    if pipeline(sys.argv[1:], os.environ) == "caption":
        from transformers_pre.audio.caption.pod import main as captioning  # noqa: PLC0415  # of two pipelines one is needed

        captioning()
    else:
        _recognising()


def _recognising() -> None:
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
