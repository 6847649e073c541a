"""What the images hold: venv and code, within a ceiling; no tools, tests or weights, torch only where it is the engine."""

from functools import cache
from typing import Any

import pytest

from charts.tools import helm, manifests
from tests.images import containers, sizes
from tests.images.containers import IMAGES

DOCKERFILES = manifests.dockerfiles()
CEILINGS_MB = {
    "audio": 720,
    "dicom": 640,
    "whisper-ct2": 850,
    "whisper": 5300,
    "whisper-vllm-cpu": 6600,
    "kaldi-asr": 720,
    "ct-clip": 5000,
    "caption": 760,
    "demo-weights": 360,
    "caption-demo-weights": 220,
}
WITH_TORCH = {"caption-vllm", "ct-clip", "whisper", "whisper-vllm", "whisper-vllm-cpu"}
COMPILERS = {image: {"cc", "gcc", "g++", "ld", "as"} for image in ("caption-vllm", "whisper-vllm")}
"""On a GPU vLLM compiles as it starts."""
INSTALLERS = {image: ["setuptools"] for image in ("caption-vllm", "whisper-vllm", "whisper-vllm-cpu")}
"""vLLM imports it."""
WEIGHTS = {"caption-demo-weights", "demo-weights"}
WEIGHTS_SUFFIXES = (".bin", ".ckpt", ".gguf", ".onnx", ".pt", ".pth", ".safetensors")

every = pytest.mark.parametrize("image", IMAGES)
services = pytest.mark.parametrize("image", [image for image in IMAGES if image not in WEIGHTS])


@cache
def look(image: str) -> dict[str, Any]:
    """What a process in a container of the image sees."""
    return containers.inside(image, "contents")


@every
def test_it_is_within_its_ceiling(image):
    assert sizes.mb(sizes.measured(image)["total"]) <= CEILINGS_MB[image], sizes.row(image)


@every
def test_labels_and_user(image):
    config = containers.inspect(image)["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert {"title", "licenses", "version", "revision", "source"} <= set(labels)
    assert labels["title"]
    assert labels["licenses"] == ("MIT" if image == "demo-weights" else "Apache-2.0")
    assert containers.reference(image).endswith(f":{labels['version']}")
    assert len(labels["revision"].removesuffix("-dirty")) == 40
    assert config["User"] == "1000:1000"
    assert look(image)["user"] == [1000, 1000]


@services
def test_no_tools(image):
    assert set(look(image)["tools"]) == COMPILERS.get(image, set())
    assert look(image)["installers"] == INSTALLERS.get(image, [])


@services
def test_torch_only_where_it_is_the_engine(image):
    distributions = look(image)["distributions"]
    assert ("torch" in distributions) == (image in WITH_TORCH)
    assert {"kserve", "httpx", "numpy"} <= set(distributions)
    assert not {"pip", "uv", "wheel", "grpcio-tools", "pytest"} & set(distributions)


@services
def test_the_code_of_its_own_and_nothing_else(image):
    app = look(image)["app"]
    side = str(DOCKERFILES[image].parent.relative_to(helm.ROOT))  # the one folder of code, besides the kit
    top = side.partition("/")[0]
    assert {"serving/server.py", f"{side}/__main__.py"} <= set(app)
    assert {path.partition("/")[0] for path in app} == {"serving", top}
    folders = {"/".join(path.split("/")[:2]) for path in app if path.count("/") > 1 and path.startswith(top)}
    assert folders == {side, f"{top}/__pycache__"}
    assert {path.rpartition(".")[2] for path in app if "." in path} <= {"py", "pyc", "json"}
    assert look(image)["tests"] == []


@services
def test_no_weights(image):
    assert [file for file in look(image)["big"] if file.endswith(WEIGHTS_SUFFIXES)] == []


@services
def test_files_are_compiled_readable_and_fixed(image):
    seen = look(image)
    assert seen["sources"] > 1000
    assert seen["not compiled"] == []
    assert seen["writable"] == []
    assert seen["closed"] == []
