"""Live speech through the gateway: a connection wakes the service, and outlives the order to stop its pod."""

import time

import pytest

from tests.bench.report import Section
from tests.e2e import kubectl, live
from tests.e2e.conftest import Deployed
from tests.e2e.waiting import until
from tests.integration.clips import HELLO, samples, words

EOF = '{"eof" : 1}'


@pytest.mark.timeout(420)
@pytest.mark.usefixtures("awake")
def test_a_connection_wakes_both(deployed: Deployed, figures: Section) -> None:
    until("both pods gone", lambda: not deployed.service.pods(), 240)
    called = time.monotonic()
    with live.connected(deployed.gateway) as connection:
        live.say(connection, samples(HELLO))
        answer = live.heard(connection)
        figures.row("from zero: live speech answered", f"{time.monotonic() - called:.1f} s")
        connection.send(EOF)
        assert live.heard(connection)["last_message"]
    assert words(answer["data"]["text"]) == ["hello", "world"]


@pytest.mark.timeout(420)
@pytest.mark.usefixtures("awake")
def test_a_pod_that_goes_ends_its_conversations_first(deployed: Deployed) -> None:
    service = deployed.service
    pod = service.until_pod("transformer")["metadata"]["name"]

    def phase() -> str:
        found = [each for each in service.pods("transformer") if each["metadata"]["name"] == pod]
        return "gone" if not found else "going" if "deletionTimestamp" in found[0]["metadata"] else "there"

    with live.connected(deployed.gateway) as connection:
        live.say(connection, samples(HELLO))
        first = live.heard(connection)
        kubectl.run("-n", service.namespace, "delete", "pod", pod, "--wait=false")
        until("the pod is going", lambda: phase() == "going", 30)
        live.say(connection, samples(HELLO))
        second = live.heard(connection)
        connection.send(EOF)
        assert live.heard(connection)["last_message"]
    assert [words(each["data"]["text"]) for each in (first, second)] == [["hello", "world"]] * 2
    until("the pod has gone", lambda: phase() == "gone", 120)
