"""The measures of captions, by hand on small sets, and the whole run on a folder like Clotho's."""

import csv
import math
from pathlib import Path

import pytest
import soundfile

from tests.bench.caption_quality import bleu, cider_d, main
from tests.unit.audio_caption import tiny

REFERENCES = [
    ["a dog barks loudly in a yard", "a dog is barking outside"],
    ["rain falls on a metal roof", "heavy rain hits the roof"],
    ["people talk while music plays", "music plays and people talk"],
]


def test_a_reference_itself_is_best() -> None:
    perfect = [those[0] for those in REFERENCES]
    assert bleu(perfect, REFERENCES) == pytest.approx([1.0] * 4)
    alone = [[those[0]] for those in REFERENCES]
    assert cider_d(perfect, alone) == pytest.approx(10.0)
    assert cider_d(perfect, REFERENCES) > cider_d([those[1] + " now" for those in REFERENCES], REFERENCES)


def test_other_words_are_worth_nothing() -> None:
    assert cider_d(["x y z"] * 3, REFERENCES) == 0.0
    assert bleu(["x y z"] * 3, REFERENCES) == [0.0] * 4


def test_case_and_punctuation_do_not_count() -> None:
    assert bleu(["A dog, barks loudly in a yard."], [REFERENCES[0]]) == pytest.approx([1.0] * 4)


def test_bleu_by_hand() -> None:
    """Papineni's clipping: "the" counts twice at most; and the penalty for a caption that is too short."""
    clipped, *_ = bleu(["the the the the the the the"], [["the cat is on the mat"]])
    assert clipped == pytest.approx(2 / 7)
    one, two, *_ = bleu(["the cat"], [["the cat sat down"]])
    assert (one, two) == pytest.approx((math.exp(1 - 4 / 2), math.exp(1 - 4 / 2)))


def test_cider_d_by_hand() -> None:
    """One word each, each in one of two sets: the vectors are parallel in the first set, and nothing matches in the second."""
    assert cider_d(["rain", "dog"], [["rain"], ["wind"]]) == pytest.approx((10 / 4 + 0) / 2)


def test_a_folder_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption_1", "caption_2"])
        for number, those in enumerate(REFERENCES):
            soundfile.write(tmp_path / f"{number}.wav", tiny.sound(1.0, number), 44_100)
            table.writerow([f"{number}.wav", those[0], those[1] if number else ""])
    main([str(tmp_path), "--model_id", "demo:random", "--device", "cpu", "--num_threads", "1", "--max_tokens", "6"])
    printed = capsys.readouterr().out
    assert "3 recordings, MODEL_ID=demo:random" in printed
    for name in ("CIDEr-D", "BLEU-1", "BLEU-4", "vocabulary"):
        assert f"| {name}" in printed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "must hold one CSV"),
        ("file_name,caption_1\nmissing.wav,a dog\n", "the row of 'missing.wav' has no recording"),
    ],
)
def test_a_folder_that_is_no_such_set_is_refused(tmp_path: Path, rows: str | None, message: str) -> None:
    if rows:
        (tmp_path / "captions.csv").write_text(rows)
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path), "--model_id", "demo:random", "--num_threads", "1"])
