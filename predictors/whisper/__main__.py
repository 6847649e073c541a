"""`python -m predictors.whisper --model_name NAME`: the Whisper predictor's pod."""

from predictors.whisper.model import engine
from predictors.whisper.settings import WhisperSettings
from serving.contracts import asr
from serving.predictor import Predictor
from serving.server import serve


def main() -> None:
    """Entry point."""
    settings = WhisperSettings.from_command_line()
    serve(Predictor(asr, engine(settings), settings), settings)


if __name__ == "__main__":
    main()
