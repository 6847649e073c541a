"""What is told of a recording: the captions of its windows with times, and one that sums them up. Pure, no I/O."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from serving.contracts.caption import Caption

Summary = Literal["best", "joined"]
"""What stands for the whole recording: the captions of the window with the highest score, or those of all windows, joined."""


class CaptionedWindow(BaseModel):
    """One stretch of a recording, `start` and `end` in seconds. `captions` are the best first, none for silence."""

    start: float
    end: float
    silence: bool
    captions: list[Caption] = []


class Summarised(BaseModel):
    """A caption of the whole recording. `score` is that of the window that it is of; null where several were joined."""

    text: str
    score: float | None
    cut_off: bool = False
    """Whether `max_tokens` ended it, or one of those that were joined."""


class Description(BaseModel):
    """What is heard in a recording of `duration` seconds. `caption` is the first of `captions`; silence has neither."""

    caption: str | None
    score: float | None
    silence: bool
    style: str | None
    duration: float
    captions: list[Summarised]
    windows: list[CaptionedWindow]


def describe(windows: Sequence[CaptionedWindow], summary: Summary, style: str | None, duration: float) -> Description:
    """The description that windows, in their order, make up. `style` is None where no window was captioned."""
    captions = _best(windows) if summary == "best" else _joined(windows)
    first = captions[0] if captions else Summarised(text="", score=None)
    return Description(
        caption=first.text if captions else None,
        score=first.score,
        silence=not captions,
        style=style,
        duration=duration,
        captions=captions,
        windows=list(windows),
    )


def _best(windows: Sequence[CaptionedWindow]) -> list[Summarised]:
    """The captions of the window whose first caption has the highest score; of several the first window's."""
    heard = [window.captions for window in windows if window.captions]
    best = max(heard, key=lambda captions: captions[0].score, default=[])
    return [Summarised(**caption.model_dump()) for caption in best]


def _joined(windows: Sequence[CaptionedWindow]) -> list[Summarised]:
    """As many texts as each window has captions: the windows' best, joined, then their second best."""
    heard = [window.captions for window in windows if window.captions]
    ranks = min(map(len, heard), default=0)
    alone = len(heard) == 1
    return [
        Summarised(
            text=join([captions[rank].text for captions in heard]),
            score=heard[0][rank].score if alone else None,
            cut_off=any(captions[rank].cut_off for captions in heard),
        )
        for rank in range(ranks)
    ]


def join(texts: Sequence[str]) -> str:
    """Captions of windows that follow each other as one text; one that says what the one before said is left out."""
    text, before = "", None
    for each in texts:
        if each != before:
            text += joint(text) + each
        before = each
    return text


def joint(text: str) -> str:
    """What stands between `text` and the next window's caption."""
    if not text:
        return ""
    return " " if text[-1] in ".!?" else "; "
