"""Calls of the predictor from where its clients are: from inside the transformer's pod, by the name that the transformer uses.

A window of silence is answered without decoding, so that hundreds of calls, each through Knative's split, take seconds.
"""

import json
from dataclasses import dataclass

from tests.e2e import kubectl
from tests.e2e.service import CONTAINER, InferenceService

_SCRIPT = """
import concurrent.futures, json, sys, threading
import httpx

url, count, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
silence = {"inputs": [{"name": "AUDIO", "shape": [1, 1600], "datatype": "FP32", "data": [0.0] * 1600}]}
local = threading.local()

def call(_):
    if not hasattr(local, "client"):
        local.client = httpx.Client(timeout=60)
    answer = local.client.post(url, json=silence)
    return answer.status_code, answer.headers.get("x-served-by", "")

with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    print(json.dumps(list(pool.map(call, range(count)))))
"""


@dataclass(frozen=True)
class Answer:
    """What one call brought."""

    status: int
    revision: str


def calls(service: InferenceService, count: int, clients: int) -> list[Answer]:
    """`count` calls of the predictor, `clients` at a time."""
    pod = service.until_pod("transformer")["metadata"]["name"]
    url = f"http://{service.name}-predictor.{service.namespace}.svc.cluster.local/v2/models/{service.name}/infer"
    command = ["exec", pod, "-c", CONTAINER, "--", "python", "-c", _SCRIPT, url, str(count), str(clients)]
    found = kubectl.run("-n", service.namespace, *command, seconds=400)
    return [Answer(*each) for each in json.loads(found)]
