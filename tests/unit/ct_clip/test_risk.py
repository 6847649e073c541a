"""The risk model: its features, its explanation, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401  # before lightgbm

from predictors.ct_clip import risk
from predictors.ct_clip.heads import PATHOLOGIES
from predictors.ct_clip.risk import RiskModel
from serving.contracts.ct import Scores
from tests.ct_clip_files import FINDINGS


def scores(labels: tuple[str, ...], **values: float) -> Scores:
    found = dict.fromkeys(labels, 0.05) | {
        name.replace("_", " ") if name not in labels else name: value for name, value in values.items()
    }
    return Scores(labels, np.array([found[name] for name in labels], np.float32))


@pytest.fixture(scope="module")
def model(folder: Path) -> RiskModel:
    return RiskModel.load(folder / "models" / "lightgbm.txt", FINDINGS, PATHOLOGIES, 0.4)


def test_features_are_the_findings_and_their_aggregates() -> None:
    supervised, by_text = np.array([0.1, 0.2, 0.3, 0.8], np.float32), np.array([0.5, 0.9], np.float32)
    names, values = risk.feature_names(FINDINGS, ("a", "b")), risk.features(supervised, by_text)
    found = dict(zip(names, values.tolist(), strict=True))
    assert len(risk.feature_names(range(15), range(52))) == 73  # type: ignore[arg-type]
    assert found["cancer"] == pytest.approx(0.3)
    assert found["supervised_mean"] == pytest.approx(0.35)
    assert found["supervised_max"] == pytest.approx(0.8)
    assert found["supervised_top3_mean"] == pytest.approx(1.3 / 3)
    assert found["ctclip_top3_mean"] == pytest.approx(0.7)  # of the two that there are


def test_a_study_with_a_finding_is_a_pathology_by_that_finding(model: RiskModel) -> None:
    ill = model.assess(scores(FINDINGS, cancer=0.95), scores(PATHOLOGIES, Lung_nodule=0.5))
    well = model.assess(scores(FINDINGS), scores(PATHOLOGIES))
    assert (ill.pathology, well.pathology) == (True, False)
    assert ill.most_dangerous == "cancer"
    assert list(ill.shap.values) == sorted(ill.shap.values, reverse=True)
    assert len(ill.shap.labels) == len(FINDINGS) + len(PATHOLOGIES) + 6


def test_contributions_sum_to_the_log_odds(model: RiskModel) -> None:
    first, second = (
        model.assess(scores(FINDINGS, cancer=value), scores(PATHOLOGIES, Lung_nodule=0.4)) for value in (0.2, 0.9)
    )
    odds = [np.log(each.probability / (1 - each.probability)) for each in (first, second)]
    assert second.shap.values.sum() - first.shap.values.sum() == pytest.approx(odds[1] - odds[0], abs=1e-4)


def test_a_model_of_other_features_is_refused(folder: Path, tmp_path: Path) -> None:
    file = folder / "models" / "lightgbm.txt"
    with pytest.raises(ValueError, match="1 of which the loaded heads do not give: covid"):
        RiskModel.load(file, FINDINGS[:-1], PATHOLOGIES, 0.4)
    (tmp_path / "no.txt").write_text("tree of nothing")
    with pytest.raises(ValueError, match="no text file of a LightGBM model"):
        RiskModel.load(tmp_path / "no.txt", FINDINGS, PATHOLOGIES, 0.4)
    with pytest.raises(ValueError, match="LIGHTGBM_MODEL_PATH: there is no"):
        RiskModel.load(tmp_path / "none.txt", FINDINGS, PATHOLOGIES, 0.4)


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"objective": "multiclass", "num_class": 3}, "its objective is multiclass with 3 outputs"),
        ({"objective": "regression"}, "its objective is regression with 1 output"),
    ],
)
def test_a_model_that_gives_no_probability_is_refused(tmp_path: Path, objective: dict[str, object], told: str) -> None:
    import lightgbm

    names = risk.feature_names(("a", "b"), ("c", "d"))
    rows = np.random.default_rng(0).uniform(0, 1, (60, len(names)))
    data = lightgbm.Dataset(rows, np.arange(60) % 3, feature_name=names)
    parameters = {**objective, "verbosity": -1, "num_threads": 1}
    lightgbm.train(parameters, data, 2).save_model(tmp_path / "other.txt")
    with pytest.raises(ValueError, match=rf"^other\.txt is no risk model: {told}, wanted is binary with 1 output$"):
        RiskModel.load(tmp_path / "other.txt", ("a", "b"), ("c", "d"), 0.4)


def test_features_without_names_go_by_their_places(tmp_path: Path) -> None:
    """Also where both groups have a finding of one name, and by name such a model is refused."""
    import lightgbm

    supervised, by_text = ("a", "b"), ("b", "c")
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (400, len(risk.feature_names(supervised, by_text))))
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    trained = lightgbm.train(parameters, lightgbm.Dataset(rows, rows[:, 1] > 0.5), 20)
    trained.save_model(tmp_path / "places.txt")
    model = RiskModel.load(tmp_path / "places.txt", supervised, by_text, 0.4)

    def pathology(second: float, third: float) -> bool:
        values = (np.array(each, np.float32) for each in ((0.1, second), (third, 0.1)))
        one, other = (Scores(labels, each) for labels, each in zip((supervised, by_text), values, strict=True))
        return model.assess(one, other).pathology

    assert (pathology(0.9, 0.1), pathology(0.1, 0.9)) == (True, False)
    names = ["a", "b", *(f"other{number}" for number in range(rows.shape[1] - 2))]
    text = (tmp_path / "places.txt").read_text()
    named = text.replace(" ".join(f"Column_{number}" for number in range(rows.shape[1])), " ".join(names))
    (tmp_path / "named.txt").write_text(named)
    with pytest.raises(ValueError, match="do not give: other0"):
        RiskModel.load(tmp_path / "named.txt", supervised, by_text, 0.4)
    twice = lightgbm.train(parameters, lightgbm.Dataset(rows[:, :1], rows[:, 1] > 0.5, feature_name=["b"]), 2)
    twice.save_model(tmp_path / "twice.txt")
    with pytest.raises(ValueError, match="both groups of findings have: b"):
        RiskModel.load(tmp_path / "twice.txt", supervised, by_text, 0.4)
