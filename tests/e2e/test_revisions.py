"""New predictor revisions: to a part of the calls, to all, and back, without one call that fails; and one that never starts."""

import time

import pytest

from tests.bench.report import Section
from tests.e2e import inside, kubectl
from tests.e2e.binomial import bounds
from tests.e2e.conftest import MODEL, Deployed
from tests.e2e.gateway import Outcome
from tests.e2e.live import Talker
from tests.e2e.load import Load
from tests.e2e.service import InferenceService, container
from tests.e2e.waiting import until
from tests.integration.clips import HELLO, samples, words

PERCENT = f"models.{MODEL}.canary.trafficPercent"
BACKEND = f"models.{MODEL}.predictor.env.BACKEND"
WINDOW = f"models.{MODEL}.predictor.scaling.window"
"""What the new revisions differ in: they stay a while without calls, of which they get few. A new tag would do the same."""
REVISION = "serving.knative.dev/revision"
CALLS, CLIENTS = 300, 4
SOME = 20
ENOUGH = 45
"""Calls of which at least one goes to a revision of 20 %, but for one time in 20,000."""


def revisions(service: InferenceService, outcomes: list[Outcome]) -> list[str]:
    """The predictor revision that each answer names. Fails for a call that failed, or whose answer names none or two."""
    assert {each.status for each in outcomes} == {200}
    transformer = service.newest("transformer")
    named = [[name for name in each.served_by if name != transformer] for each in outcomes]
    assert all(len(names) == 1 for names in named), named
    return [name for (name,) in named]


@pytest.mark.timeout(900)
def test_a_part_then_all_then_back(deployed: Deployed, hello: bytes, figures: Section) -> None:
    release, service, gateway = deployed.release, deployed.service, deployed.gateway
    old = service.newest("predictor")
    with Load(gateway, hello, CLIENTS) as load, Talker(gateway, samples(HELLO)) as talker:
        load.until_answered(1, 60)

        begun = time.monotonic()
        release.upgrade(f"{WINDOW}=30s", f"{PERCENT}=20")
        new = service.until_newer("predictor", old)
        service.until_split("predictor", {old: 80, new: 20})
        figures.row("helm upgrade → a new revision has 20 %", f"{time.monotonic() - begun:.1f} s")
        assert set(revisions(service, load.from_now(ENOUGH, 200))) == {old, new}
        begun = time.monotonic()
        answers = inside.calls(service, CALLS, 4 * CLIENTS)
        assert {each.status for each in answers} == {200}
        assert {each.revision for each in answers} == {old, new}
        hits, (low, high) = sum(each.revision == new for each in answers), bounds(CALLS, 0.2)
        figures.row(
            f"of {CALLS} calls at 20 % (bounds {low} to {high}, 99.9 %)",
            f"{hits} by the new revision; {time.monotonic() - begun:.0f} s",
        )
        assert low <= hits <= high

        begun = time.monotonic()
        release.upgrade(f"{PERCENT}=100")
        service.until_split("predictor", {new: 100})
        figures.row("promotion to 100 %", f"{time.monotonic() - begun:.1f} s")
        assert set(revisions(service, load.from_now(SOME, 120))) == {new}

        begun = time.monotonic()
        release.upgrade(f"{PERCENT}=0")
        service.until_split("predictor", {old: 100})
        figures.row("roll back to 0 %", f"{time.monotonic() - begun:.1f} s")
        assert set(revisions(service, load.from_now(SOME, 120))) == {old}
    figures.row("calls during all of it, failed", f"{len(load.outcomes)}, {len(load.failed)}")
    assert not load.failed
    figures.row("a live connection through all of it: sentences, wrong", f"{len(talker.texts)}, {_wrong(talker)}")
    assert talker.failure is None
    assert len(talker.texts) > 3
    assert not _wrong(talker)


def _wrong(talker: Talker) -> int:
    return sum(words(text) != ["hello", "world"] for text in talker.texts)


@pytest.mark.timeout(420)
def test_a_revision_that_never_starts_gets_no_calls(deployed: Deployed, hello: bytes) -> None:
    release, service, gateway = deployed.release, deployed.service, deployed.gateway
    before = service.newest("predictor")
    release.upgrade(f"{WINDOW}=31s", f"{PERCENT}=null")
    good = service.until_newer("predictor", before)
    service.until_split("predictor", {good: 100})
    with Load(gateway, hello, CLIENTS) as load:
        load.until_answered(1, 60)
        release.upgrade(f"{BACKEND}=no-such-backend", f"{PERCENT}=10")
        bad = service.until_newer("predictor", good)

        def ends() -> list[str]:
            """What the container of the bad revision said when it ended."""
            pods = [pod for pod in service.pods("predictor") if pod["metadata"]["labels"][REVISION] == bad]
            last = [container(pod).get("lastState", {}) for pod in pods]
            return [state["terminated"]["message"] for state in last if "terminated" in state]

        (message,) = until("the bad revision ended at its start", ends, 120)
        assert "BACKEND: " in message  # why, for whoever looks at the pod
        assert set(revisions(service, load.from_now(SOME, 120))) == {good}
        assert service.shares("predictor") == {good: 100}
        assert not kubectl.is_true(service.get(), "Ready")  # it does not go unnoticed

        release.upgrade(f"{BACKEND}=ctranslate2", f"{WINDOW}=32s", f"{PERCENT}=null")
        mended = service.until_newer("predictor", bad)
        service.until_split("predictor", {mended: 100})
        service.until_ready()
        load.until_answered(1, 60)
    assert not load.failed
