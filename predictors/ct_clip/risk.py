"""Probability of pathology from the findings' probabilities, by a LightGBM model, and what each finding adds to it.

Features are the supervised findings, those compared with texts, and of each group the mean, the maximum and the mean of the
three highest. The model is a text file of LightGBM's: nothing in it is run. A feature that it wants and that is not there is an
error at the start, not a zero. LightGBM is imported in `load`, and after torch: each brings an OpenMP of its own, and the
other order crashes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from serving.contracts.ct import Risk, Scores

if TYPE_CHECKING:
    import lightgbm

GROUPS = ("supervised", "ctclip")
"""Prefixes of the aggregates' names."""
AGGREGATES = ("mean", "max", "top3_mean")
_TOP = 3


def feature_names(supervised: Sequence[str], by_text: Sequence[str]) -> list[str]:
    """Names of the features, in their order."""
    aggregates = [f"{group}_{aggregate}" for group in GROUPS for aggregate in AGGREGATES]
    return [*supervised, *by_text, *aggregates]


def features(supervised: npt.NDArray[np.float32], by_text: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Values of the features [15 + n + 6] of one study."""
    groups = [np.asarray(group, np.float64) for group in (supervised, by_text)]
    aggregates = [value for group in groups for value in (group.mean(), group.max(), np.sort(group)[-_TOP:].mean())]
    return np.concatenate([*groups, aggregates])


def _order(wanted: Sequence[str], names: Sequence[str], file: Path) -> list[int]:
    """Places among `names` of the features that a model wants. Raises ValueError for one that is not there, or there twice."""
    if len(wanted) == len(names) and all(name.startswith("Column_") for name in wanted):
        return list(range(len(names)))  # trained without names: by position
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(
            f"{file.name} wants {len(wanted)} features, {len(missing)} of which the loaded heads do not give: "
            f"{', '.join(missing[:5])}; they give {len(names)}"
        )
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise ValueError(f"{file.name} wants features that both groups of findings have: {', '.join(twice[:5])}")
    return [names.index(name) for name in wanted]


def _check_binary(booster: "lightgbm.Booster", file: Path) -> None:
    """Raises ValueError for a model whose output is no probability: of several classes, a rank, a quantity."""
    objective = str(booster.dump_model(num_iteration=1).get("objective", "")).partition(" ")[0]
    outputs = booster.num_model_per_iteration()
    if objective != "binary" or outputs != 1:
        raise ValueError(
            f"{file.name} is no risk model: its objective is {objective or 'not said'} with {outputs} "
            f"output{'s' if outputs != 1 else ''}, wanted is binary with 1 output"
        )


class RiskModel:
    """A LightGBM model with its threshold."""

    def __init__(
        self, booster: "lightgbm.Booster", order: list[int], names: list[str], findings: int, threshold: float
    ):
        self._booster = booster
        self._order = order
        self._names = names
        self._findings = findings
        self._threshold = threshold

    @classmethod
    def load(cls, file: Path, supervised: Sequence[str], by_text: Sequence[str], threshold: float) -> "RiskModel":
        """Reads a model. Raises ValueError when it cannot be read, gives no probability, or wants features that are not there."""
        import lightgbm  # noqa: PLC0415  # after torch, which the caller has imported

        if not file.is_file():
            raise ValueError(f"LIGHTGBM_MODEL_PATH: there is no {file}")
        try:
            booster = lightgbm.Booster(model_file=str(file))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"{file.name} is no text file of a LightGBM model: {error}") from None
        _check_binary(booster, file)
        names = feature_names(supervised, by_text)
        order = _order(
            [_canonical(name) for name in booster.feature_name()], [_canonical(name) for name in names], file
        )
        return cls(booster, order, names, len(supervised) + len(by_text), threshold)

    def assess(self, supervised: Scores, by_text: Scores) -> Risk:
        """The risk of one study."""
        row = features(supervised.values, by_text.values)[self._order][None]
        probability = float(self._booster.predict(row)[0])
        contributions = np.asarray(self._booster.predict(row, pred_contrib=True))[0, :-1]  # the last is the expectation
        ranked = np.argsort(-contributions, kind="stable")
        findings = [place for place in ranked if self._order[place] < self._findings and contributions[place] > 0]
        return Risk(
            probability,
            self._threshold,
            probability >= self._threshold,
            self._names[self._order[findings[0]]] if findings else "",
            Scores([self._names[self._order[place]] for place in ranked], contributions[ranked].astype(np.float32)),
        )


def _canonical(name: str) -> str:
    """LightGBM has no spaces in names."""
    return name.replace(" ", "_")
