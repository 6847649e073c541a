"""The engine of a Kaldi-family pod, from its settings."""

from predictors.kaldi_asr.recognizer import KaldiRecognizer
from predictors.kaldi_asr.settings import KaldiSettings


def engine(settings: KaldiSettings) -> KaldiRecognizer:
    """The recogniser; which backend it takes, the model's folder says. Nothing is loaded yet."""
    return KaldiRecognizer(settings)
