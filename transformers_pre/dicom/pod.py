"""The pod of the CT transformer: its parts, put together."""

from serving.known_predictor import KnownPredictor
from serving.routes import BodyBudget
from serving.server import serve
from transformers_pre.dicom import answers
from transformers_pre.dicom.model import CtTransformer
from transformers_pre.dicom.pipeline import Pipeline
from transformers_pre.dicom.reader import StudyReader
from transformers_pre.dicom.routes import limits, predict
from transformers_pre.dicom.settings import DicomSettings


def main() -> None:
    """Entry point."""
    settings = DicomSettings.from_command_line()
    client = KnownPredictor(
        settings.predictor_host,
        settings.predictor_model_name or settings.model_name,
        use_ssl=settings.predictor_use_ssl,
        connections=settings.hop_connections,
        retry_seconds=settings.hop_retry_seconds,
    )
    reader = StudyReader(settings.study_limits())
    pipeline = Pipeline(
        client,
        reader,
        request_seconds=settings.request_timeout_seconds,
        max_overlays=settings.explain_findings,
    )
    bodies = BodyBudget(settings.max_bodies_bytes)
    serve(
        CtTransformer(pipeline, client, reader, settings),
        settings,
        routers=[predict.router(pipeline, settings, bodies), limits.router(settings)],
        dialects=dict.fromkeys(predict.PREFIXES, answers.failure),
        bodies=bodies,
    )
