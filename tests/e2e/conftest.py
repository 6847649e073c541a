"""One release of the chart for all tests of this folder, on the cluster of KUBECONFIG; what it measures is printed at the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.bench.report import CLUSTER, Section, write
from tests.e2e import kubectl
from tests.e2e.gateway import Gateway
from tests.e2e.release import Release
from tests.e2e.service import InferenceService
from tests.e2e.target import Target
from tests.e2e.waiting import until
from tests.integration.clips import CALL, HELLO, clip

MODEL = "whisper-base"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_SECTION = pytest.StashKey[Section]()


@dataclass(frozen=True)
class Deployed:
    """A release, its InferenceService and the way to it."""

    release: Release
    service: InferenceService
    gateway: Gateway


def deploy(release: Release, *values: str) -> InferenceService:
    """Installs the release; its InferenceService, which need not be ready."""
    release.install(*values)
    return InferenceService(release.namespace, MODEL)


def reach(release: Release, service: InferenceService, audio: bytes) -> Deployed:
    """The release once its service has answered."""
    gateway = Gateway(release.target.gateway, service.host(), MODEL)
    with gateway.http() as client:
        # A host name that was asked for before it was there is unknown for as long as resolvers remember that.
        until("the first answer", lambda: gateway.transcribe(client, audio).status == httpx.codes.OK, 120)
    return Deployed(release, service, gateway)


@pytest.fixture(scope="session")
def target() -> Target:
    """The settings of this run."""
    return Target.from_environment()


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Section:
    """Where tests note what they measured."""
    return request.config.stash[_SECTION]


@pytest.fixture(scope="session")
def call() -> bytes:
    """30.000 s of a telephone call between two people, WAV."""
    return CALL.read_bytes()


@pytest.fixture(scope="session")
def hello() -> bytes:
    """A second of speech: "Hello world."."""
    return clip(HELLO)


@pytest.fixture(scope="session")
def release(target: Target) -> Iterator[Release]:
    """A release that is still to be installed, in a namespace where PodSecurity `restricted` is enforced."""
    with kubectl.namespace(target.namespace, **RESTRICTED) as namespace:
        yield Release(target, namespace)


@pytest.fixture(scope="session")
def deployed(release: Release, figures: Section, hello: bytes) -> Deployed:
    """The release, answering."""
    begun = time.monotonic()
    service = deploy(release)
    service.until_ready()
    ready = time.monotonic()
    made = reach(release, service, hello)
    figures.row("helm install → ready → first answer", f"{ready - begun:.1f} s, {time.monotonic() - ready:.1f} s more")
    return made


@pytest.fixture
def awake(deployed: Deployed, hello: bytes) -> None:
    """Both pods run, and go on for some seconds."""
    with deployed.gateway.http() as client:
        assert deployed.gateway.transcribe(client, hello).status == httpx.codes.OK


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Adds the state of the cluster to a failure."""
    made = yield
    release = getattr(item, "funcargs", {}).get("release")
    if made.failed and release:
        made.sections.append((f"namespace {release.namespace}", kubectl.state(release.namespace)))
    return made


def pytest_configure(config: pytest.Config) -> None:
    """Makes the section of figures."""
    config.stash[_SECTION] = Section(
        CLUSTER,
        "Whisper-base on a Kubernetes cluster with Knative, Kourier and KServe, through the ingress gateway; `make e2e`.",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the figures, and writes them if a file was named."""
    section = config.stash[_SECTION]
    if section.rows:
        terminalreporter.write_line(f"\n{section.markdown()}")
        if file := Target.from_environment().report:
            write(section, file)
