"""The images run as the chart's pods do, and hold all that an answer takes."""

import base64
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import jiwer
import pytest

from charts.tools import manifests
from tests.bench.speech import wav
from tests.ct_series import dicom, scan, zipped
from tests.images import containers
from tests.images.containers import IMAGES, Container, ContainerError
from tests.integration.clips import HELLO, clip, words
from tests.russian import joined, sentences
from tests.services import MODELS

BACKENDS = {"whisper-ct2": "ctranslate2", "whisper": "openai_whisper", "whisper-vllm-cpu": "vllm"}
transformers = pytest.mark.parametrize("image", [image for image in IMAGES if image in ("audio", "dicom")])
whispers = pytest.mark.parametrize("image", [image for image in IMAGES if image in BACKENDS])
# What a predictor says without weights, where it is not Whisper's sentence.
NO_WEIGHTS = {
    "caption": "MODEL_ID=/mnt/models is no folder",
    "ct-clip": "there is no bundle in MODEL_ID=/mnt/models",
    "kaldi-asr": "MODEL_ID=/mnt/models is no folder",
}
NEED_A_GPU = ("caption-vllm", "whisper-vllm")
# Those of `Dockerfile.demo-weights` hold no predictor.
PREDICTORS = [name for name, file in manifests.dockerfiles().items() if file.match("predictors/*/Dockerfile")]
predictors = pytest.mark.parametrize(
    "image", [image for image in IMAGES if image in PREDICTORS and image not in NEED_A_GPU]
)


def backend(image: str) -> list[str]:
    """Options for the engine that the image holds, where it is not its predictor's default."""
    return ["--env", f"BACKEND={BACKENDS[image]}"] if image in BACKENDS else []


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of the image `demo-weights`."""
    folder = tmp_path_factory.mktemp("weights") / "models"
    containers.copy_weights("demo-weights", folder)
    return folder


@pytest.fixture
def network() -> Iterator[str]:
    """A network on which containers find each other by their names."""
    name = f"sonotome-{uuid4().hex[:12]}"
    containers.tool("network", "create", name)
    yield name
    containers.tool("network", "rm", name)


def test_weights_are_a_model_that_anybody_may_read(weights):
    files = {file.name: file.stat() for file in weights.iterdir()}
    assert set(files) == {"config.json", "model.bin", "tokenizer.json", "vocabulary.txt"}
    assert all(stat.st_mode & 0o004 for stat in files.values())


@pytest.mark.parametrize("image", [image for image in IMAGES if image == "caption"])
def test_a_caption_through_both_pods(image, network, tmp_path):
    copied = tmp_path / "models"
    containers.copy_weights("caption-demo-weights", copied)
    joined = ["--network", network, "--network-alias"]
    mounted = [*joined, "predictor", "--volume", f"{copied}:/mnt/models:ro"]
    flags = ["--model_name=sounds", "--http_port=8080"]
    captioning = ["--pipeline=caption", "--predictor_host=predictor:8080"]
    with (
        Container(image, *flags, "--model_id=/mnt/models", options=mounted) as predictor,
        Container("audio", *flags, *captioning, options=[*joined, "transformer"]) as transformer,
    ):
        predictor.until("/v2/health/live").until("/v2/models/sounds/ready", 120)
        url = transformer.until("/v2/models/sounds/ready").url
        recording = base64.b64encode(clip(HELLO)).decode()
        answer = httpx.post(f"{url}/process", json={"input_data": recording}, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.json()["processed_data"]  # words without meaning
        assert (transformer.stop(), predictor.stop()) == (0, 0)


@pytest.mark.parametrize("model", ["gigaam", "vosk5"])
@pytest.mark.parametrize("image", [image for image in IMAGES if image == "kaldi-asr"])
def test_russian_speech_through_both_pods(image, model, network):
    joined_to = ["--network", network, "--network-alias"]
    mounted = [*joined_to, "predictor", "--volume", f"{MODELS / model}:/mnt/models:ro"]
    flags = ["--model_name=speech", "--http_port=8080"]
    said, sounds = sentences(3, seed=2)
    with (
        Container(image, *flags, "--model_id=/mnt/models", options=mounted) as predictor,
        Container(
            "audio", *flags, "--predictor_host=predictor:8080", options=[*joined_to, "transformer"]
        ) as transformer,
    ):
        predictor.until("/v2/health/live").until("/v2/models/speech/ready", 120)
        url = transformer.until("/v2/models/speech/ready").url
        files = {"file": wav(joined(sounds))}
        answer = httpx.post(f"{url}/v1/audio/transcriptions", files=files, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert jiwer.wer(" ".join(said), answer.json()["text"]) <= 0.05  # as for the models alone
        assert (transformer.stop(), predictor.stop()) == (0, 0)


@pytest.mark.parametrize("image", [image for image in IMAGES if image == "ct-clip"])
def test_a_study_through_both_pods(image, network):
    joined = ["--network", network, "--network-alias"]
    flags = ["--model_name=ct", "--http_port=8080"]
    with (
        Container(image, *flags, "--model_id=demo:random", options=[*joined, "predictor"]) as predictor,
        Container("dicom", *flags, "--predictor_host=predictor:8080", options=[*joined, "transformer"]) as transformer,
    ):
        predictor.until("/v2/health/live").until("/v2/models/ct/ready", 180)
        url = transformer.until("/v2/models/ct/ready").url
        study = {"file": zipped(dicom(slice_) for slice_ in scan())}
        answer = httpx.post(f"{url}/predict", files=study, timeout=180, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.json()["processing_status"] == "Success"
        assert 0 < answer.json()["probability_of_pathology"] < 1
        assert (transformer.stop(), predictor.stop()) == (0, 0)


@transformers
def test_a_transformer_is_alive_without_a_predictor_and_ends_when_it_is_told_to(image):
    with Container(image, "--model_name=whisper") as pod:
        assert pod.until("/v2/health/live").stop() == 0


@predictors
def test_a_predictor_without_weights_says_why(image):
    with Container(image, "--model_id=/mnt/models", options=backend(image)) as pod:
        with pytest.raises(ContainerError, match=NO_WEIGHTS.get(image, "MODEL_ID=/mnt/models does not exist")):
            pod.until("/v2/models/model/ready")
        assert pod.state()["ExitCode"] == 1


@whispers
def test_a_recording_through_both_pods(image, weights, network):
    joined = ["--network", network, "--network-alias"]
    mounted = [*joined, "predictor", "--shm-size=1g", "--volume", f"{weights}:/mnt/models:ro", *backend(image)]
    flags = ["--model_name=whisper", "--http_port=8080"]
    with (
        Container(image, *flags, "--model_id=/mnt/models", options=mounted) as predictor,
        Container("audio", *flags, "--predictor_host=predictor:8080", options=[*joined, "transformer"]) as transformer,
    ):
        predictor.until("/v2/health/live").until("/v2/models/whisper/ready", 240)
        url = transformer.until("/v2/models/whisper/ready").url
        answer = httpx.post(f"{url}/v1/audio/transcriptions", files={"file": clip(HELLO)}, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert words(answer.json()["text"]) == ["hello", "world"]
        assert (transformer.stop(), predictor.stop()) == (0, 0)
