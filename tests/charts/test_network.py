"""Network policies: who may call a pod and whom it may call, by mode and by where its weights come from."""

from charts.tools import helm
from tests.charts import scenarios

POLICY = ("--set", "global.networkPolicy.enabled=true")


def policies(*arguments: str) -> dict[str, scenarios.Object]:
    made = helm.objects("--set", "models.whisper-base.enabled=true", *POLICY, *arguments)
    return {each["metadata"]["name"]: each["spec"] for each in made if each["kind"] == "NetworkPolicy"}


def namespaces(peer: scenarios.Object) -> list[str]:
    (expression,) = peer["namespaceSelector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("kubernetes.io/metadata.name", "In")
    return expression["values"]


def reaches_internet(policy: scenarios.Object) -> bool:
    return any("ipBlock" in peer for rule in policy["egress"] for peer in rule.get("to", []))


def test_one_policy_a_pod():
    made = policies()
    assert set(made) == {"whisper-base-predictor", "whisper-base-transformer"}
    for name, policy in made.items():
        role = name.removeprefix("whisper-base-")
        assert policy["podSelector"]["matchLabels"] == {
            "serving.kserve.io/inferenceservice": "whisper-base",
            "component": role,
        }
        assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_knative_pods_hear_the_data_plane_only():
    for policy in policies().values():
        (rule,) = policy["ingress"]
        (peer,) = rule["from"]
        assert namespaces(peer) == ["knative-serving", "kourier-system"]
        assert [port["port"] for port in rule["ports"]] == [8012, 8112, 9090]


def test_standard_predictors_hear_their_transformer_only():
    made = policies(
        *("--set", "deploymentMode=Standard"),
        *("--set", "models.whisper-base.predictor.scaling.min=1", "--set", "transformers.audio.scaling.min=1"),
        *("--set", "global.networkPolicy.dataPlaneNamespaces={ingress-nginx}"),
    )
    (rule,) = made["whisper-base-predictor"]["ingress"]
    transformer = {"serving.kserve.io/inferenceservice": "whisper-base", "component": "transformer"}
    assert rule["from"] == [{"podSelector": {"matchLabels": transformer}}]
    (rule,) = made["whisper-base-transformer"]["ingress"]
    assert namespaces(rule["from"][0]) == ["ingress-nginx"]
    outwards = [peer for rule in made["whisper-base-transformer"]["egress"] for peer in rule.get("to", [])]
    assert {"podSelector": {"matchLabels": {**transformer, "component": "predictor"}}} in outwards


def test_only_who_downloads_reaches_the_internet():
    weights = "models.whisper-base.predictor.weights"
    assert reaches_internet(policies()["whisper-base-predictor"])  # a hub
    assert reaches_internet(policies("--set", f"{weights}.storageUri=s3://bucket/base")["whisper-base-predictor"])
    for there in (
        "storageUri=pvc://claim",
        "storageUri=oci+native://registry/w:1",
        "image=registry/w:1",
    ):
        assert not reaches_internet(policies("--set", f"{weights}.{there}")["whisper-base-predictor"])


def test_links():
    assert reaches_internet(policies()["whisper-base-transformer"])
    closed = policies("--set", "global.networkPolicy.allowLinks=false")
    assert not reaches_internet(closed["whisper-base-transformer"])


def test_private_networks_are_never_the_internet():
    for policy in policies().values():
        blocks = [peer["ipBlock"] for rule in policy["egress"] for peer in rule.get("to", []) if "ipBlock" in peer]
        assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(blocks[0]["except"])


def test_metrics_and_own_rules():
    found = [
        each["spec"] for each in scenarios.objects(scenarios.named("locked-down")) if each["kind"] == "NetworkPolicy"
    ]
    assert len(found) == 4  # of two models, both pods each
    for policy in found:
        metrics = policy["ingress"][1]
        assert namespaces(metrics["from"][0]) == ["monitoring"]
        assert [port["port"] for port in metrics["ports"]] == [8080]
        assert policy["egress"][-1]["ports"] == [{"port": 4318, "protocol": "TCP"}]
        assert not reaches_internet(policy)
