"""The demo weights: every head of the published sizes' volume, the same each time."""

import numpy as np
import pytest

from predictors.ct_clip import demo_weights
from predictors.ct_clip.reader import CtReader
from predictors.ct_clip.settings import CtClipSettings
from serving.contracts import ct
from serving.contracts.ct import CtInput, CtOptions


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = CtReader(CtClipSettings(model_id=demo_weights.NAME, num_threads=1, device="cpu"))
        made.load()
    yield made
    made.close()


def volume(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.uniform(-1, 1, (24, 48, 48)).astype(np.float32)
    return coarse.repeat(10, 0).repeat(10, 1).repeat(10, 2)


def test_every_head_answers_and_a_study_is_answered_by_what_is_in_it(reader):
    one, again, other = (reader.run([CtInput(volume(seed), CtOptions(explain=True))])[0] for seed in (1, 1, 2))
    assert set(one.scores) == {"zero_shot", "classfine", "supervised"}
    assert len(one.scores["supervised"].labels) == 15
    assert one.shares.values.shape == (18, 24, 24, 24)
    assert 0 < one.risk.probability < 1
    for head, found in one.scores.items():
        assert np.array_equal(found.values, again.scores[head].values)
        assert not np.array_equal(found.values, other.scores[head].values)


def test_its_answers_say_what_they_are(reader):
    (found,) = reader.run([ct.warm_up_item()])
    assert found.model["zero_shot"]["version"] == demo_weights.NAME


def test_the_files_are_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        demo_weights.make(tmp_path / name)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == ["classfine.safetensors", "ctclip.safetensors", "lightgbm.txt", "supervised.safetensors"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
