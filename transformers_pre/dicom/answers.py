"""The body of `/predict`, also one prediction of V1: the original service's keys, then what it did not tell.

Its keys are always there, null or empty where there is nothing to say, so that a client of it finds what it reads.
"""

import base64
from typing import Any, Final

from serving.errors import ServingError
from transformers_pre.dicom.overlay import Overlay
from transformers_pre.dicom.pipeline import Reading

SUCCESS: Final = "Success"
FAILURE: Final = "Failure"
_TOP_FEATURES = 10
_OWN_HEADS = ("zero_shot", "classfine", "prompts")
"""Heads that the original service has no key for; each has one here when the predictor gave it."""


def body(reading: Reading) -> dict[str, Any]:
    """The answer for a study that was read. Probabilities are of [0, 1]."""
    scores, risk, identity = reading.result.scores, reading.result.risk, reading.identity
    by_text = scores.get("vocabfine") or scores.get("zero_shot")
    found = {
        **_nothing(),
        "study_uid": identity and identity.study_uid,
        "series_uid": identity and identity.series_uid,
        "processing_status": SUCCESS,
        "time_of_processing": round(reading.seconds, 3),
        "supervised_probabilities": scores["supervised"].as_dict() if "supervised" in scores else {},
        "ctclip_probabilities": by_text.as_dict() if by_text is not None else {},
    }
    if risk is not None:
        found |= {
            "probability_of_pathology": risk.probability,
            "pathology": int(risk.pathology),
            "most_dangerous_pathology_type": risk.most_dangerous or None,
            "top_shap_features": dict(list(risk.shap.as_dict().items())[:_TOP_FEATURES]),
        }
    found |= {f"{head}_probabilities": scores[head].as_dict() for head in _OWN_HEADS if head in scores}
    if reading.result.shares is not None:
        found["explanations"] = [_explanation(each) for each in reading.overlays]
    return {**found, "input": reading.report, "model": dict(reading.result.model)}


def failure(error: ServingError) -> dict[str, Any]:
    """The answer for a study that was not: the same keys, and what was wrong."""
    return {
        **_nothing(),
        "processing_status": FAILURE,
        "error": error.message,
        "code": error.code,
        "param": error.param,
    }


def _nothing() -> dict[str, Any]:
    return {
        "study_uid": None,
        "series_uid": None,
        "probability_of_pathology": None,
        "pathology": None,
        "most_dangerous_pathology_type": None,
        "processing_status": FAILURE,
        "time_of_processing": None,
        "supervised_probabilities": {},
        "ctclip_probabilities": {},
        "top_shap_features": {},
    }


def _explanation(overlay: Overlay) -> dict[str, Any]:
    return {
        "finding": overlay.finding,
        "logit": overlay.logit,
        "axial_mm": overlay.axial_mm,
        "coronal_mm": overlay.coronal_mm,
        "png": base64.b64encode(overlay.png).decode(),
    }
