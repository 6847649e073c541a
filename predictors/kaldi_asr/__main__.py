"""`python -m predictors.kaldi_asr --model_name NAME`: the pod of a Kaldi-family predictor."""

from predictors.kaldi_asr.model import engine
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts import asr
from serving.predictor import Predictor
from serving.server import serve


def main() -> None:
    """Entry point."""
    settings = KaldiSettings.from_command_line()
    serve(Predictor(asr, engine(settings), settings), settings)


if __name__ == "__main__":
    main()
