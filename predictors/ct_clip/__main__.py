"""`python -m predictors.ct_clip --model_name NAME`: the pod of the CT-CLIP predictor."""

from predictors.ct_clip.model import engine
from predictors.ct_clip.settings import CtClipSettings
from serving.contracts import ct
from serving.predictor import Predictor
from serving.server import serve


def main() -> None:
    """Entry point."""
    settings = CtClipSettings.from_command_line()
    serve(Predictor(ct, engine(settings), settings), settings)


if __name__ == "__main__":
    main()
