"""The engine of a CT-CLIP pod, from its settings."""

from predictors.ct_clip.reader import CtReader
from predictors.ct_clip.settings import CtClipSettings


def engine(settings: CtClipSettings) -> CtReader:
    """The reader. Nothing is loaded yet."""
    return CtReader(settings)
