"""Mistakes are refused before anything is applied: across fields in one sentence, single values by the schema."""

import json

import pytest

from charts.tools import helm

P = "models.whisper-base.predictor"
T = "models.whisper-base.transformer"
STANDARD = ["deploymentMode=Standard", f"{P}.scaling.min=1", f"{T}.scaling.min=1"]
PROFILES = "a100-40gb, a100-80gb, a10g, h100, l4, t4"

SENTENCES = [
    ([f"{P}.scaling.min=3"], f"{P}.scaling.min is 3, more than max 2"),
    ([f"{T}.scaling.min=9"], f"{T}.scaling.min is 9, more than max 4"),
    (
        [f"{P}.scaling.concurrency=2"],
        f"{P}.scaling.target is 4, more than concurrency 2 lets a pod have",
    ),
    (
        ["models.whisper-base.timeout=601"],
        "models.whisper-base.timeout is 601, more than global.maxTimeoutSeconds 600: raise that together with "
        "max-revision-timeout-seconds of Knative's config-defaults",
    ),
    ([f"{P}.resources.requests.memory=2049Mi"], f"{P}.resources.requests.memory is 2049Mi, more than the limit 2Gi"),
    ([f"{P}.resources.requests.memory=3G"], f"{P}.resources.requests.memory is 3G, more than the limit 2Gi"),
    ([f"{P}.resources.requests.cpu=4001m"], f"{P}.resources.requests.cpu is 4001m, more than the limit 4"),
    ([f"{T}.resources.requests.cpu=2001m"], f"{T}.resources.requests.cpu is 2001m, more than the limit 2"),
    ([f"{P}.env.DEVICE=cuda"], f"{P}.env.DEVICE is cuda without a GPU: set gpu.profile and gpu.count"),
    (
        [f"{P}.env.LANGUAGE_FORCE=fa", f"{T}.env.LANGUAGE_FORCE=de"],
        f"{T}.env.LANGUAGE_FORCE is de, the predictor's is fa: set {P}.env.LANGUAGE_FORCE alone, both pods get it",
    ),
    (
        [f"{P}.env.LANGUAGE_FORCE=fa", f"{T}.env.LANGUAGE_FORCE="],
        f"{T}.env.LANGUAGE_FORCE is empty, the predictor's is fa: set {P}.env.LANGUAGE_FORCE alone, both pods get it",
    ),
    (
        [f"{T}.env.LANGUAGE_FORCE=de"],
        f"{T}.env.LANGUAGE_FORCE is de, the predictor's is empty: set {P}.env.LANGUAGE_FORCE alone, both pods get it",
    ),
    ([f"{P}.scaling.window=5s"], f"{P}.scaling.window is 5s: Knative takes 6s to 1h"),
    ([f"{T}.scaling.window=60m1s"], f"{T}.scaling.window is 60m1s: Knative takes 6s to 1h"),
    ([f"{P}.scaling.retention=1h1s"], f"{P}.scaling.retention is 1h1s: Knative takes 1h at most"),
    (
        [f"{P}.weights.modelId=/mnt/models"],
        f"{P}.weights.modelId is /mnt/models, a path at which nothing is mounted: set storageUri or image",
    ),
    ([f"{P}.weights.modelId="], f"{P}.weights is empty: set modelId, storageUri or image"),
    (
        [*STANDARD, "global.networkPolicy.enabled=true"],
        "global.networkPolicy.dataPlaneNamespaces has knative-serving, from where nobody calls in deploymentMode Standard: "
        "name those of your ingress controller",
    ),
    (
        [
            *STANDARD,
            "global.networkPolicy.enabled=true",
            "global.networkPolicy.dataPlaneNamespaces={nginx,kourier-system}",
        ],
        "global.networkPolicy.dataPlaneNamespaces has kourier-system, from where nobody calls in deploymentMode Standard: "
        "name those of your ingress controller",
    ),
    (["defaults.predictor.scaling.max=null"], f"{P}.scaling.max has no value: null took its default away"),
    (["defaults.predictor.scaling=null"], f"{P}.scaling.min has no value: null took its default away"),
    (["defaults.predictor.weights=null"], f"{P}.weights.storageUri has no value: null took its default away"),
    (["defaults.transformer.name=null"], f"{T}.name is empty, which is none of transformers: audio, dicom"),
    (
        [f"{P}.gpu.profile=t4", f"{P}.gpu.count=1"],
        f"{P}.env.DEVICE is cpu, which leaves gpu.count 1 without work: set DEVICE to cuda",
    ),
    (
        [f"{P}.gpu.profile=t4", f"{P}.gpu.count=2", f"{P}.env.DEVICE=cuda"],
        f"{P}.gpu.count is 2: only env.BACKEND vllm shares a model among GPUs",
    ),
    (
        [f"{P}.env.BACKEND=vllm", f"{P}.env.ENFORCE_EAGER=off", f"{P}.fastStart.eager=true"],
        f"{P}.env.ENFORCE_EAGER and fastStart.eager are both set: keep one",
    ),
    ([f"{P}.env.HOST=127.0.0.1"], f"{P}.env.HOST cannot be set here: it comes from the chart"),
    (
        [*STANDARD, f"{P}.scaling.metric=rps"],
        f"{P}.scaling.metric is rps: deploymentMode Standard scales by cpuPercent",
    ),
    ([f"{P}.gpu.count=1"], f"{P}.gpu.count is 1 without a profile: name one of {PROFILES}"),
    ([f"{P}.gpu.profile=t4"], f"{P}.gpu.profile is t4 but count is 0: set how many GPUs, or no profile"),
    (
        [f"{P}.gpu.profile=tpu", f"{P}.gpu.count=1"],
        f"{P}.gpu.profile is tpu, which is none of gpuProfiles: {PROFILES}",
    ),
    (
        [f"{P}.fastStart.eager=true"],
        f"{P}.fastStart.eager is set: it is for BACKEND vllm, and env.BACKEND is ctranslate2",
    ),
    (
        [f"{P}.fastStart.cacheClaim=cache", f"{P}.env.BACKEND="],
        f"{P}.fastStart.cacheClaim is set: it is for BACKEND vllm, and env.BACKEND is empty",
    ),
    (["defaults.predictor.fastStart=null"], f"{P}.fastStart has no value: null took its default away"),
    (
        [f"{P}.env.TENSOR_PARALLEL_SIZE=two"],
        f"{P}.env.TENSOR_PARALLEL_SIZE cannot be set here: it comes from gpu.count",
    ),
    ([f"{T}.name=video"], f"{T}.name is video, which is none of transformers: audio, dicom"),
    (["global.tag=latest"], f"{P}.image has the tag latest, which no revision can be rolled back to"),
    (
        ["transformers.audio.image.tag=latest"],
        f"{T}.image has the tag latest, which no revision can be rolled back to",
    ),
    ([f"{P}.image.repository="], f"{P}.image.repository is empty: name the image"),
    ([f"{P}.module="], f"{P}.module is empty: name the Python module that the container runs"),
    (
        [f"{P}.weights.image=registry/w:1", f"{P}.weights.storageUri=pvc://claim"],
        f"{P}.weights has storageUri and image: set one of them",
    ),
    ([f"{P}.weights.image=registry:5000/weights"], f"{P}.weights.image is registry:5000/weights, which has no tag"),
    (
        [f"{P}.weights.image=registry/weights:latest"],
        f"{P}.weights.image has the tag latest, which no revision can be rolled back to",
    ),
    (
        [f"{P}.weights.storageUri=oci+native://registry:5000/w"],
        f"{P}.weights.storageUri is oci+native://registry:5000/w, which has no tag",
    ),
    (
        [f"{P}.weights.storageUri=oci+native://registry/w:latest"],
        f"{P}.weights.storageUri has the tag latest, which no revision can be rolled back to",
    ),
    (
        [f"{P}.weights.storageUri=oci://registry/w:1"],
        f"{P}.weights.storageUri: KServe mounts oci:// only after the start and PodSecurity restricted refuses it: use "
        "oci+native:// or weights.image",
    ),
    (
        [f"{P}.weights.storageUri=ftp://host/w"],
        f"{P}.weights.storageUri is ftp://host/w: KServe knows pvc, oci+native, gs, s3, hf, http, https, hdfs and webhdfs",
    ),
    ([f"{P}.env.MODEL_ID=large-v3"], f"{P}.env.MODEL_ID cannot be set here: it comes from weights"),
    (
        [f"{T}.secretEnv.API_KEYS.secretName=keys", f"{T}.secretEnv.API_KEYS.key=all"],
        f"{T}.secretEnv.API_KEYS cannot be set here: it comes from global.apiKeys",
    ),
    (
        [f"{P}.env.HF_TOKEN=x", f"{P}.secretEnv.HF_TOKEN.secretName=hub", f"{P}.secretEnv.HF_TOKEN.key=token"],
        f"{P}.env.HF_TOKEN and secretEnv.HF_TOKEN are both set: keep one",
    ),
    ([f"{T}.env.API_KEYS=secret"], f"{T}.env.API_KEYS cannot be set here: it comes from global.apiKeys"),
    (
        [f"{P}.env.REQUEST_TIMEOUT_SECONDS=9s"],
        f"{P}.env.REQUEST_TIMEOUT_SECONDS cannot be set here: it comes from timeout",
    ),
    (
        [f"{T}.env.REQUEST_TIMEOUT_SECONDS=9s"],
        f"{T}.env.REQUEST_TIMEOUT_SECONDS cannot be set here: it comes from timeout",
    ),
    ([f"{P}.env.PYTHONPATH=/x"], f"{P}.env.PYTHONPATH cannot be set here: it comes from the image"),
    (
        ["deploymentMode=Standard"],
        f"{P}.scaling.min is 0: deploymentMode Standard cannot scale to zero, set 1 or more",
    ),
    (
        ["deploymentMode=Standard", f"{P}.scaling.min=1"],
        f"{T}.scaling.min is 0: deploymentMode Standard cannot scale to zero, set 1 or more",
    ),
    (
        [*STANDARD, "models.whisper-base.canary.trafficPercent=20"],
        "models.whisper-base.canary.trafficPercent is set: deploymentMode Standard has no canary by percentage",
    ),
    (
        [*STANDARD, f"{P}.scaling.concurrency=8"],
        f"{P}.scaling.concurrency is set: deploymentMode Standard cannot hold requests back",
    ),
    (
        [*STANDARD, f"{P}.scaling.retention=5m"],
        f"{P}.scaling.retention is set: deploymentMode Standard has no scale-to-zero",
    ),
]


@pytest.mark.parametrize(("settings", "sentence"), SENTENCES, ids=[" ".join(settings) for settings, _ in SENTENCES])
def test_one_sentence(settings, sentence):
    with pytest.raises(helm.HelmError) as refused:
        helm.template(
            "--set", "models.whisper-base.enabled=true", *(part for each in settings for part in ("--set", each))
        )
    error = str(refused.value).splitlines()[0]
    assert error.partition("): ")[2] == sentence


def add(name: str) -> tuple[str, ...]:
    predictor = {"module": "predictors.whisper", "image": {"repository": "w"}, "weights": {"modelId": "base"}}
    entry = json.dumps({"enabled": True, "description": "", "predictor": predictor})
    return ("--set-json", f"models.{name}={entry}")


@pytest.mark.parametrize("name", ["Whisper", "1st", "base-", "base_en"])
def test_names_that_are_no_dns_labels(name):
    sentence = f"models.{name}: a name is lower-case letters, digits and '-', with a letter first and no '-' last"
    with pytest.raises(helm.HelmError) as refused:
        helm.template(*add(name))
    assert sentence in str(refused.value)


def test_names_that_are_too_long():
    assert helm.objects(*add("a" * 45))
    with pytest.raises(helm.HelmError) as refused:
        helm.template(*add("a" * 46))
    assert "the name has 46 characters, in namespace default it may have 45" in str(refused.value)
    long = ("--namespace", "n" * 30)
    assert helm.objects(*add("a" * 32), *long)
    with pytest.raises(helm.HelmError) as refused:
        helm.template(*add("a" * 33), *long)
    assert f"the name has 33 characters, in namespace {'n' * 30} it may have 32" in str(refused.value)


def test_a_model_that_is_off_may_be_wrong():
    assert helm.objects("--set", "models.whisper-base.timeout=3600") == []


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (["models.whisper-base.predictor.scalling.min=0"], "at '/models/whisper-base/predictor'"),
        (["models.whisper-base.predictor.env.BEAM_SIZE=5"], "at '/models/whisper-base/predictor/env/BEAM_SIZE'"),
        (["models.whisper-base.predictor.env.beam_size=x"], "invalid propertyName 'beam_size'"),
        (["models.whisper-base.canary.trafficPercent=101"], "at '/models/whisper-base/canary/trafficPercent'"),
        (["models.whisper-base.predictor.scaling.min=-1"], "at '/models/whisper-base/predictor/scaling/min'"),
        (["models.whisper-base.predictor.scaling.metric=cpu"], "at '/models/whisper-base/predictor/scaling/metric'"),
        (["models.whisper-base.predictor.scaling.window=soon"], "at '/models/whisper-base/predictor/scaling/window'"),
        (
            ["models.whisper-base.predictor.resources.limits.memory=2GB"],
            "at '/models/whisper-base/predictor/resources/limits/memory'",
        ),
        ([f"{P}.resources.limits.memory=500m"], "at '/models/whisper-base/predictor/resources/limits/memory'"),
        ([f"{P}.resources.limits.memory=2048"], "at '/models/whisper-base/predictor/resources/limits/memory'"),
        ([f"{P}.resources.limits.cpu=4Gi"], "at '/models/whisper-base/predictor/resources/limits/cpu'"),
        ([f"{P}.tmpSize=0Gi"], "at '/models/whisper-base/predictor/tmpSize'"),
        (["models.whisper-base.predictor.image.tag=a b"], "at '/models/whisper-base/predictor/image/tag'"),
        (
            ["models.whisper-base.predictor.fastStart.cacheClaim=A/b"],
            "at '/models/whisper-base/predictor/fastStart/cacheClaim'",
        ),
        (["models.whisper-base.enabled=yes"], "at '/models/whisper-base/enabled'"),
        (["deploymentMode=Serverless"], "at '/deploymentMode'"),
        (["global.pullPolicy=Sometimes"], "at '/global/pullPolicy'"),
        (["global.podSecurity.runAsUser=0"], "at '/global/podSecurity/runAsUser'"),
        (["global.podSecurity.privileged=true"], "at '/global/podSecurity'"),
        (["global.networkPolicy.dataPlaneNamespaces={A}"], "at '/global/networkPolicy/dataPlaneNamespaces/0'"),
        (["gpuProfiles.t4.nodeSelector=null"], "at '/gpuProfiles/t4'"),
        (["gpuProfiles.t4.resource=gpu"], "at '/gpuProfiles/t4/resource'"),
        (["transformers.audio.tmpSize=4GB"], "at '/transformers/audio/tmpSize'"),
        *(([f"{name}=null"], f"at '': missing property '{name}'") for name in helm.values()),
        (["defaults.canary=null"], "at '/defaults': missing property 'canary'"),
        (["global.apiKeys=null"], "at '/global': missing property 'apiKeys'"),
        (["global.networkPolicy.enabled=null"], "at '/global/networkPolicy': missing property 'enabled'"),
        ([f"{P}.scaling=null"], "at '/models/whisper-base/predictor/scaling': got null, want object"),
        (["models.whisper-base.description=one\r- two"], "at '/models/whisper-base/description'"),
        (["models.whisper-base.description=one\u2028two"], "at '/models/whisper-base/description'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_the_schema_refuses(settings, where):
    with pytest.raises(helm.HelmError) as refused:
        helm.template(*(part for each in settings for part in ("--set", each)))
    assert where in str(refused.value)
