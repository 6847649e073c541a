"""Bodies of V1 and V2 in a real pod's memory: as many as may be, no more, and none once its request is answered."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.conftest import StartPod
from tests.pods import Pod

MIB = 1 << 20
MOST, SIZE, CLIENTS, ROUNDS = 256 * MIB, 60 * MIB, 16, 3
SLACK = 50e6
"""For what the pod makes besides: buffers of sockets, answers, tracebacks."""


@pytest.fixture
def pod(start_pod: StartPod) -> Pod:
    return start_pod("tests.ct_pod", "ct", max_body_bytes=200 * MIB, max_bodies_bytes=MOST).until_ready()


def pieces() -> Iterator[bytes]:
    for _ in range(SIZE // MIB):
        yield bytes(MIB)


def ask(pod: Pod, *, length: bool) -> httpx.Response | None:
    """A body that is no request; None where the refusal came while it was still being sent."""
    headers = {"inference-header-content-length": "2", **({"content-length": str(SIZE)} if length else {})}
    url = f"{pod.url}/v2/models/ct/infer"
    try:
        return httpx.post(url, content=pieces(), headers=headers, timeout=120, trust_env=False)
    except httpx.TransportError:
        return None


def test_many_large_bodies_at_once_stay_within_their_limit(pod: Pod) -> None:
    process = psutil.Process(pod.process.pid)
    idle, peaks, over = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            peaks[0] = max(peaks[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    answers: list[httpx.Response | None] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        for _ in range(ROUNDS):
            answers += clients.map(lambda number: ask(pod, length=number % 2 == 0), range(CLIENTS))
    over.set()
    watching.join()
    told = Counter(answer.status_code for answer in answers if answer is not None)
    assert told.keys() == {400, 503}
    refused = [answer for answer in answers if answer is not None and answer.status_code == 503]
    assert all(answer.headers["retry-after"] == "1" and "MAX_BODIES_BYTES" in answer.text for answer in refused)
    assert peaks[0] - idle < MOST + SLACK
    pod.until(lambda: process.memory_info().rss - idle < SLACK, "the memory given back")
    assert httpx.post(f"{pod.url}/v2/models/ct/infer", content=b"{}", trust_env=False).status_code == 400
