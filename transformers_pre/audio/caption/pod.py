"""The pod of the captioning transformer: its parts, put together."""

from serving.dialects import openai_body
from serving.known_predictor import KnownPredictor
from serving.routes import BodyBudget
from serving.server import serve
from transformers_pre.audio.caption.describer import Describer
from transformers_pre.audio.caption.model import CaptionTransformer
from transformers_pre.audio.caption.routes import chat, service
from transformers_pre.audio.caption.routes.limits import CaptionLimits
from transformers_pre.audio.caption.settings import CaptionSettings
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.routes import recording_limits


def main() -> None:
    """Entry point."""
    settings = CaptionSettings.from_command_line()
    client = KnownPredictor.of(settings)
    media = DecoderPool(settings.media_limits())
    describer = Describer(client, media, settings)
    model = CaptionTransformer(describer, client, media, settings)
    bodies = BodyBudget(settings.max_bodies_bytes)
    routers = [
        service.router(describer, settings, bodies),
        chat.router(describer, settings, bodies, ready=lambda: bool(model.ready)),
        recording_limits.router(CaptionLimits.model_validate(settings)),
    ]
    dialects = dict.fromkeys(chat.PREFIXES, openai_body) | dict.fromkeys(service.PREFIXES, service.error_body)
    serve(model, settings, routers=routers, dialects=dialects, bodies=bodies)
