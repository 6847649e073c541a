"""What vLLM wants of a pod: shared memory, as many GPUs as share the model, a fast start, a cache that outlives the pod."""

import pytest

from charts.tools import helm
from tests.charts import scenarios

GPU, CPU = "whisper-large-v3-vllm", "whisper-large-v3-cpu"
PROFILES = {"t4", "l4", "a100-80gb", "h100"}
# vLLM checks for 160 MiB and then for 240 MiB, of which it writes little; a container of its own accord has 64 MiB.
MOST_MIB = 240


def predictor(name: str, *settings: str) -> scenarios.Object:
    values = [f"models.{name}.enabled=true", *(f"models.{name}.predictor.{each}" for each in settings)]
    (service,) = helm.objects(*(part for each in values for part in ("--set", each)))
    spec: scenarios.Object = service["spec"]["predictor"]
    return spec


def volume(spec: scenarios.Object, path: str) -> scenarios.Object | None:
    """What is mounted at `path`, less its name; None for nothing."""
    mounts = [each for each in scenarios.container(spec)["volumeMounts"] if each["mountPath"] == path]
    if not mounts:
        return None
    assert len(mounts) == 1
    assert "readOnly" not in mounts[0]
    (found,) = (each for each in spec["volumes"] if each["name"] == mounts[0]["name"])
    return {key: value for key, value in found.items() if key != "name"}


def test_ci_has_every_gpu_that_it_is_for():
    profiles = helm.values()["gpuProfiles"]
    found = {
        str(spec["nodeSelector"])
        for scenario in scenarios.PLAIN
        for name, role, spec in scenarios.components(scenario)
        if (name, role) == (GPU, "predictor")
    }
    assert found == {str(profiles[profile]["nodeSelector"]) for profile in PROFILES}


@pytest.mark.parametrize(
    ("name", "settings"),
    [(GPU, ()), (CPU, ()), (GPU, ("gpu.count=2",))],
    ids=["one GPU", "CPU", "two GPUs"],
)
def test_shared_memory(name, settings):
    found = volume(predictor(name, *settings), "/dev/shm")  # noqa: S108  # a path in the pod
    assert found is not None
    assert found["emptyDir"]["medium"] == "Memory"
    assert int(found["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 10 > MOST_MIB


def test_no_shared_memory_for_others():
    for _, role, spec in scenarios.components(scenarios.named("all-models")):
        if role == "transformer" or scenarios.environment(spec).get("BACKEND") != "vllm":
            assert volume(spec, "/dev/shm") is None  # noqa: S108  # as above


@pytest.mark.parametrize("count", [1, 4])
def test_gpus_share_the_model(count):
    spec = predictor(GPU, f"gpu.count={count}")
    assert scenarios.container(spec)["resources"]["limits"]["nvidia.com/gpu"] == str(count)
    assert int(scenarios.environment(spec).get("TENSOR_PARALLEL_SIZE", "1")) == count


def test_nothing_is_fast_by_itself():
    spec = predictor(GPU)
    assert not {"ENFORCE_EAGER", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"} & set(scenarios.environment(spec))
    assert volume(spec, "/cache") is None


def test_an_eager_start():
    spec = predictor(GPU, "fastStart.eager=true")
    assert scenarios.environment(spec)["ENFORCE_EAGER"] == "true"
    assert volume(spec, "/cache") is None


def test_a_cache_that_outlives_the_pod():
    spec = predictor(GPU, "fastStart.cacheClaim=compiled")
    assert volume(spec, "/cache") == {"persistentVolumeClaim": {"claimName": "compiled"}}
    environment = scenarios.environment(spec)
    assert "ENFORCE_EAGER" not in environment
    folders = {environment["VLLM_CACHE_ROOT"], environment["TRITON_CACHE_DIR"]}
    assert len(folders) == 2
    assert all(folder.startswith("/cache/") for folder in folders)
