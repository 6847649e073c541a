"""What stands for a recording of several windows."""

import pytest

from serving.contracts.caption import Caption
from transformers_pre.audio.caption.description import CaptionedWindow, Description, Summary, describe, join


def window(number: int, *captions: tuple[str, float]) -> CaptionedWindow:
    found = [Caption(text=text, score=score) for text, score in captions]
    return CaptionedWindow(start=30.0 * number, end=30.0 * number + 30, silence=not found, captions=found)


def described(summary: Summary, *windows: CaptionedWindow) -> Description:
    return describe(windows, summary, "clotho", 30.0 * len(windows))


RAIN = window(0, ("rain falls", 0.4), ("water runs", 0.3))
SILENT = window(1)
DOG = window(2, ("a dog barks", 0.6), ("an animal", 0.1))


def test_the_best_window_stands_for_the_whole() -> None:
    found = described("best", RAIN, SILENT, DOG)
    assert (found.caption, found.score, found.silence) == ("a dog barks", 0.6, False)
    assert [caption.text for caption in found.captions] == ["a dog barks", "an animal"]
    assert found.windows == [RAIN, SILENT, DOG]


def test_all_windows_are_joined_rank_by_rank() -> None:
    found = described("joined", RAIN, SILENT, DOG)
    assert [caption.text for caption in found.captions] == ["rain falls; a dog barks", "water runs; an animal"]
    assert (found.caption, found.score) == ("rain falls; a dog barks", None)


@pytest.mark.parametrize("summary", ["best", "joined"])
def test_one_window_keeps_its_score(summary: Summary) -> None:
    found = described(summary, SILENT, RAIN)
    assert [(caption.text, caption.score) for caption in found.captions] == [("rain falls", 0.4), ("water runs", 0.3)]
    assert found.score == 0.4


@pytest.mark.parametrize("summary", ["best", "joined"])
@pytest.mark.parametrize("windows", [[], [SILENT], [window(0), SILENT]])
def test_silence_has_no_caption(summary: Summary, windows: list[CaptionedWindow]) -> None:
    found = described(summary, *windows)
    assert (found.caption, found.score, found.silence, found.captions) == (None, None, True, [])


def test_what_is_joined_is_cut_off_where_one_of_it_is() -> None:
    cut = window(1, ("a dog bar", 0.6))
    cut.captions[0].cut_off = True
    assert [described(summary, RAIN, cut).captions[0].cut_off for summary in ("best", "joined")] == [True, True]
    assert [described(summary, RAIN, DOG).captions[0].cut_off for summary in ("best", "joined")] == [False, False]
    assert described("best", cut, window(2, ("rain", 0.7))).captions[0].cut_off is False


def test_the_first_of_equally_good_windows_counts() -> None:
    assert described("best", window(0, ("one", 0.5)), window(1, ("two", 0.5))).caption == "one"


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["rain falls"], "rain falls"),
        (["Rain falls.", "A dog barks."], "Rain falls. A dog barks."),
        (["rain", "rain", "a dog", "rain"], "rain; a dog; rain"),
    ],
)
def test_joining(texts: list[str], joined: str) -> None:
    assert join(texts) == joined
