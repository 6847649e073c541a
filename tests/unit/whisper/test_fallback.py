"""The temperature ladder, with a decoder that says what the test wants."""

from collections.abc import Sequence

import pytest

from predictors.whisper.fallback import Decoding, Thresholds, climb

LADDER = (0.0, 0.2, 0.4)
LIMITS = Thresholds()
REPEATED = "the same again " * 20


def decoding(
    text: str = "all is well", logprob: float = -0.2, no_speech: float = 0.0, temperature: float = 0.0
) -> Decoding:
    return Decoding((1, 2, 3), text, logprob, no_speech, temperature)


class Script:
    """Decodings by window and temperature; good ones where nothing else is written. Notes what it is asked."""

    def __init__(self, **written: Decoding):
        self.written = written
        self.asked: list[tuple[list[int], float]] = []

    def __call__(self, windows: Sequence[int], temperature: float) -> list[Decoding]:
        self.asked.append((list(windows), temperature))
        good = decoding(temperature=temperature)
        return [self.written.get(f"w{window}_{round(temperature * 10)}", good) for window in windows]


def test_a_batch_without_failures_is_decoded_once() -> None:
    script = Script()
    assert len(climb(3, LADDER, LIMITS, script)) == 3
    assert script.asked == [([0, 1, 2], 0.0)]


def test_only_the_windows_that_failed_climb() -> None:
    bad = decoding(logprob=-1.5)
    script = Script(w1_0=bad, w3_0=decoding(REPEATED), w3_2=decoding(REPEATED, temperature=0.2))
    results = climb(4, LADDER, LIMITS, script)
    assert script.asked == [([0, 1, 2, 3], 0.0), ([1, 3], 0.2), ([3], 0.4)]
    assert [result.temperature for result in results] == [0.0, 0.2, 0.0, 0.4]


@pytest.mark.parametrize(
    ("made", "fails"),
    [
        (decoding(), False),
        (decoding(logprob=-1.0), False),
        (decoding(logprob=-1.01), True),
        (decoding(REPEATED), True),
        (decoding(logprob=-1.5, no_speech=0.61), False),  # silence is no failure
        (decoding(logprob=-1.5, no_speech=0.6), True),
        (decoding(logprob=-0.9, no_speech=0.99), False),
        (decoding(REPEATED, no_speech=0.99), True),
        (decoding(""), False),
    ],
)
def test_what_fails(made: Decoding, fails: bool) -> None:
    assert made.failed(LIMITS) is fails


@pytest.mark.parametrize(
    ("logprob", "no_speech", "silent"), [(-1.1, 0.7, True), (-0.9, 0.7, False), (-1.1, 0.5, False)]
)
def test_silence_needs_both_signs(logprob: float, no_speech: float, silent: bool) -> None:
    assert decoding(logprob=logprob, no_speech=no_speech).is_silence(LIMITS) is silent


def test_when_all_fail_the_most_probable_that_does_not_repeat_wins() -> None:
    script = Script(
        w0_0=decoding(REPEATED, logprob=-0.1),
        w0_2=decoding("one", logprob=-1.4, temperature=0.2),
        w0_4=decoding("two", logprob=-1.2, temperature=0.4),
    )
    (result,) = climb(1, LADDER, LIMITS, script)
    assert (result.text, result.temperature) == ("two", 0.4)


def test_when_all_repeat_the_most_probable_wins() -> None:
    script = Script(
        w0_0=decoding(REPEATED, logprob=-0.3),
        w0_2=decoding(REPEATED, logprob=-0.1, temperature=0.2),
        w0_4=decoding(REPEATED, logprob=-0.2, temperature=0.4),
    )
    assert climb(1, LADDER, LIMITS, script)[0].temperature == 0.2


def test_one_temperature_is_no_ladder() -> None:
    script = Script(w0_7=decoding(logprob=-3, temperature=0.7))
    assert climb(1, (0.7,), LIMITS, script)[0].avg_logprob == -3
    assert script.asked == [([0], 0.7)]


def test_the_compression_ratio_is_of_the_text_without_its_outer_blanks() -> None:
    assert decoding(f" {REPEATED} ").compression_ratio == decoding(REPEATED.strip()).compression_ratio
    assert decoding(REPEATED).compression_ratio > 2.4 > decoding().compression_ratio
    assert decoding("").compression_ratio == 0
