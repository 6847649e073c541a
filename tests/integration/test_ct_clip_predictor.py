"""The CT-CLIP predictor's pod by itself, with small random weights: what it says of them, what stops its start, load and its end.

That its numbers are right, `tests/unit/ct_clip` shows; that its transformer's are the same, `test_ct_clip_service`.
"""

import io
import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton

from predictors.ct_clip.bundle import sha256
from predictors.ct_clip.heads import PATHOLOGIES
from serving import v2
from serving.contracts.ct_volume import SHAPE
from tests import ct_clip_files
from tests.conftest import StartPod
from tests.pods import Pod

THRESHOLD = 0.375
ENVIRONMENT = {"DEVICE": "cpu", "NUM_THREADS": "2"}
VOLUME = np.random.default_rng(7).uniform(-1, 1, (1, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ct_clip_files.prepared(tmp_path_factory.mktemp("ct_clip"), ct_clip_files.SERVED, keep_text=True)


@pytest.fixture(scope="module")
def pod(models: Path) -> Iterator[Pod]:
    env = {**ENVIRONMENT, "MODEL_ID": str(models), "KEEP_TEXT_ENCODER": "true", "OPTIMAL_THRESHOLD": str(THRESHOLD)}
    with Pod("predictors.ct_clip", "ct-clip", env) as running:
        yield running.until_ready()


def infer(pod: Pod, prompts: list[str] | None = None, **parameters: Any) -> httpx.Response:
    arrays: dict[str, npt.NDArray[Any]] = {"VOLUME": VOLUME}
    if prompts:
        arrays["PROMPTS"] = v2.bytes_array([prompt.encode() for prompt in prompts])
    parts, length = v2.encode(v2.request(pod.model_name, arrays, parameters))
    url, headers = f"{pod.url}/v2/models/{pod.model_name}/infer", {v2.JSON_LENGTH: str(length)}
    return httpx.post(url, content=b"".join(parts), headers=headers, timeout=280, trust_env=False)


class Answer:
    """An answer's tensors, their parameters, and its own."""

    def __init__(self, response: httpx.Response):
        assert response.status_code == 200, response.text
        decoded = v2.decode_response(response.content, int(response.headers[v2.JSON_LENGTH]))
        self.arrays = v2.tensors(decoded)
        self.of = {output.name: output.parameters or {} for output in decoded.outputs}
        self.model = json.loads(v2.parameters(decoded)["model"])


def labels(answer: Answer, name: str) -> list[str]:
    found: list[str] = json.loads(answer.of[name]["labels"])
    return found


# --- what it says of itself ---


def test_metadata_names_what_has_no_weights(pod: Pod) -> None:
    with closing(triton.InferenceServerClient(pod.url.removeprefix("http://"))) as client:
        told = client.get_model_metadata("ct-clip")
    assert (told["name"], told["inputs"][0]["shape"]) == ("ct-clip", [1, *SHAPE])
    assert told["parameters"]["contract"] == "ct/1"
    assert told["parameters"]["model"]["absent"] == ["vocabfine"]
    assert told["parameters"]["model"] == Answer(infer(pod, heads="risk")).model


def test_every_answer_names_its_model(pod: Pod, models: Path) -> None:
    for head, bundle in (("zero_shot", "ctclip"), ("classfine", "classfine"), ("supervised", "supervised")):
        answer = Answer(infer(pod, heads=head))
        assert answer.arrays.keys() == {head.upper()}
        told = answer.model[head]
        assert (told["version"], told["sha256"]) == (f"test {bundle}", sha256(models / f"{bundle}.safetensors"))
        assert len(told["source_sha256"]) == 64
        assert answer.model["risk"] == {"sha256": sha256(models / "lightgbm.txt"), "threshold": THRESHOLD}
    answer = Answer(infer(pod, heads="risk"))
    assert answer.of["RISK"]["threshold"] == THRESHOLD
    assert answer.of["RISK"]["pathology"] == bool(answer.arrays["RISK"][0] >= THRESHOLD)


def test_a_head_without_weights_is_refused_by_name(pod: Pod) -> None:
    refused = infer(pod, heads="vocabfine")
    assert refused.status_code == 400
    assert "heads vocabfine have no weights here, there are: " in refused.json()["error"]


def test_prompts_are_answered_in_their_order(pod: Pod) -> None:
    prompts = ["Cardiomegaly", "a fish in the left lung", "Lung nodule"]
    answer = Answer(infer(pod, prompts, heads="prompts,zero_shot"))
    assert labels(answer, "PROMPT_SCORES") == prompts
    (found,), (known,) = answer.arrays["PROMPT_SCORES"], answer.arrays["ZERO_SHOT"]
    expected = dict(zip(labels(answer, "ZERO_SHOT"), known.tolist(), strict=True))
    assert found[[0, 2]].tolist() == pytest.approx([expected["Cardiomegaly"], expected["Lung nodule"]], abs=1e-5)
    assert 0 < found[1] < 1


def test_an_explanation_sums_to_the_logits(pod: Pod) -> None:
    answer = Answer(infer(pod, explain=True, heads="zero_shot"))
    (packed,), (probabilities,) = answer.arrays["EXPLAIN"], answer.arrays["ZERO_SHOT"]
    shares = np.load(io.BytesIO(packed))["shares"].astype(np.float64)
    assert labels(answer, "EXPLAIN") == labels(answer, "ZERO_SHOT") == list(PATHOLOGIES)
    assert shares.shape == (len(PATHOLOGIES), SHAPE[0] // 30, 8, 8)
    logits = np.log(probabilities / (1 - probabilities))
    np.testing.assert_allclose(shares.sum((1, 2, 3)), logits, atol=1e-4)
    assert np.abs(logits).max() > 1e-3


def test_without_the_text_encoder_prompts_are_refused(start_pod: StartPod, models: Path) -> None:
    pod = start_pod("predictors.ct_clip", "ct-clip", {**ENVIRONMENT, "MODEL_ID": str(models)}).until_ready()
    refused = infer(pod, ["Cardiomegaly"])
    assert refused.status_code == 400
    assert "KEEP_TEXT_ENCODER" in refused.json()["error"]


# --- what it does not start with ---


def truncated(folder: Path) -> None:
    file = folder / "ctclip.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def no_bundle(folder: Path) -> None:
    shutil.copy(folder / "lightgbm.txt", folder / "ctclip.safetensors")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)


def risk_alone(folder: Path) -> None:
    (folder / "supervised.safetensors").unlink()


def broken_risk(folder: Path) -> None:
    (folder / "lightgbm.txt").write_text("tree\nnum_class=1\n")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (truncated, r"ctclip\.safetensors cannot be read"),
    "no bundle": (no_bundle, r"ctclip\.safetensors cannot be read"),
    "nothing": (empty, r"there is no bundle in MODEL_ID=.*python -m predictors\.ct_clip\.prepare"),
    "risk without its heads": (risk_alone, r"lightgbm\.txt wants the supervised bundle"),
    "broken risk": (broken_risk, r"lightgbm\.txt"),
}


@pytest.mark.parametrize(("damage", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_files_stop_the_start_with_one_line(
    start_pod: StartPod, models: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    damage(folder)
    pod = start_pod("predictors.ct_clip", "ct-clip", {**ENVIRONMENT, "MODEL_ID": str(folder)})
    assert pod.wait(120) == 1
    # LightGBM's library writes a line of its own besides.
    (line,) = [line for line in pod.lines if line.startswith("{") and json.loads(line)["level"] == "CRITICAL"]
    assert re.search(rf"cannot start: .*{told}", line), line
    assert "Traceback" not in pod.text()


def test_a_bundle_that_is_named_has_to_be_there(start_pod: StartPod, models: Path) -> None:
    env = {**ENVIRONMENT, "MODEL_ID": str(models), "CTCLIP_MODEL_PATH": "/none.safetensors"}
    pod = start_pod("predictors.ct_clip", "ct-clip", env)
    assert pod.wait(120) == 1
    assert "CTCLIP_MODEL_PATH: there is no /none.safetensors" in pod.text()


# --- load, and the end ---


def test_more_studies_than_may_wait_are_503(start_pod: StartPod, models: Path) -> None:
    """One is read, one waits; of six at a time some are refused, and every answer that comes is the same."""
    env = {**ENVIRONMENT, "MODEL_ID": str(models)}
    pod = start_pod("predictors.ct_clip", "ct-clip", env, max_queue=1).until_ready()
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: infer(pod, heads="risk"), range(6)))
    assert Counter(answer.status_code for answer in answers).keys() == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert "MAX_QUEUE" in answer.json()["error"]
            assert int(answer.headers["retry-after"]) >= 1
    assert len({float(Answer(answer).arrays["RISK"][0]) for answer in answers if answer.status_code == 200}) == 1


def test_a_study_is_answered_before_the_pod_ends(start_pod: StartPod, models: Path) -> None:
    env = {**ENVIRONMENT, "MODEL_ID": str(models)}
    pod = start_pod("predictors.ct_clip", "ct-clip", env).until_ready()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(infer, pod, None, explain=True)
        pod.until_in_flight(1)
        pod.send(signal.SIGTERM)
        answer = asked.result()
    assert Answer(answer).arrays["RISK"].shape == (1,)
    assert answer.headers["connection"] == "close"
    assert pod.wait() == 0
