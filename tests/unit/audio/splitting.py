"""Whole recordings through the splitter, for the tests of this folder."""

from transformers_pre.audio.split import Probabilities, Samples, SplitLimits, Splitter, Window


def split(samples: Samples, probabilities: Probabilities, limits: SplitLimits) -> list[Window]:
    """The windows of samples [n]; `probabilities` has one a chunk, also for an incomplete last one."""
    splitter = Splitter(limits)
    whole = len(samples) // limits.chunk_samples
    windows = splitter.push(samples, probabilities[:whole]) + splitter.finish(probabilities[whole:])
    return [window for window, _ in windows]
