"""`python -m predictors.audio_caption --model_name NAME`: the captioning predictor's pod."""

from predictors.audio_caption.model import engine
from predictors.audio_caption.settings import CaptionSettings
from serving.contracts import caption
from serving.predictor import Predictor
from serving.server import serve


def main() -> None:
    """Entry point."""
    settings = CaptionSettings.from_command_line()
    serve(Predictor(caption, engine(settings), settings), settings)


if __name__ == "__main__":
    main()
