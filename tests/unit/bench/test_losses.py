"""How the benches count words at cuts."""

import pytest

from tests.bench.losses import Spoken, count, placed
from tests.bench.speech import RATE

SAID = [Spoken(word, float(second)) for second, word in enumerate(["a", "b", "c", "d", "e", "f", "g", "h"])]


@pytest.mark.parametrize(
    ("heard", "cut", "expected"),
    [
        ("a b c d e f g h", 4, (0, 0)),
        ("a b c g h", 4, (3, 0)),
        ("a b g h", 4.5, (2, 0)),  # of c, d, e and f those at 4 and 5 s
        ("a b c d e f g", 4, (0, 0)),  # the last is lost, far from the cut
        ("a b c d d e f g h", 4, (0, 1)),
        ("x y a b c d e f g h", 4, (0, 0)),
        ("a b c d e f g h x y", 7, (0, 2)),
        ("a b c x e f g h", 4, (0, 0)),  # another word is not a lost one
    ],
)
def test_count(heard: str, cut: float, expected: tuple[int, int]) -> None:
    assert count(SAID, heard.split(), [int(cut * RATE)]) == expected


def test_words_are_placed_where_they_were_heard() -> None:
    heard = [Spoken("one", 1.0), Spoken("tree", 3.0), Spoken("uh", 3.5), Spoken("five", 5.0)]
    found = placed(["one", "two", "three", "four", "five"], heard)
    assert [word.text for word in found] == ["one", "two", "three", "four", "five"]
    assert [word.at for word in found] == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0], abs=1.0)
    assert [word.at for word in found][::4] == [1.0, 5.0]
