"""Scale to zero and back: nobody calls and both pods go; one call brings both back and is answered."""

import time

import pytest

from tests.bench.report import Section
from tests.e2e.coldstart import start_of
from tests.e2e.conftest import Deployed
from tests.e2e.kubectl import PodWatch
from tests.e2e.load import Load
from tests.e2e.service import ROLES
from tests.e2e.waiting import until
from tests.integration.clips import words


@pytest.mark.timeout(420)
@pytest.mark.usefixtures("awake")
def test_one_call_wakes_both(deployed: Deployed, hello: bytes, figures: Section) -> None:
    service, gateway = deployed.service, deployed.gateway
    with gateway.http() as client:
        warm = gateway.transcribe(client, hello)
    idle = time.monotonic()
    until("both pods gone", lambda: not service.pods(), 240)
    figures.row("idle → both pods gone (window 6 s)", f"{time.monotonic() - idle:.0f} s")

    watch = PodWatch(service.namespace)
    try:
        with gateway.http() as client:
            called = time.time()
            cold = gateway.transcribe(client, hello)
        with Load(gateway, hello):  # without calls both pods would go while they are looked at
            pods = {role: service.until_pod(role) for role in ROLES}
            starts = {role: start_of(pod, watch, called) for role, pod in pods.items()}
    finally:
        watch.close()
    assert cold.status == 200, cold
    assert "hello world" in " ".join(words(cold.body))
    figures.row("from zero: a call answered", f"{cold.seconds:.1f} s (warm {warm.seconds:.1f} s)")
    for role, start in starts.items():
        figures.row(f"from zero: {role}, seconds after the call", str(start))
    # The transformer asks for its predictor before its own imports (serving.waking), so that they start together.
    assert starts["predictor"].wanted < starts["transformer"].ready
