"""Eight studies at once through both pods of CT-CLIP, again and again: how long they take, and whether memory stays steady."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.bench import ct_clip, ct_volume
from tests.bench.memory import Peak, settled_mb
from tests.bench.report import Section
from tests.services import Service, chest_ct

STUDIES, ROUNDS = 8, 3
_PATIENCE_SECONDS = 600.0


def _ask(url: str, archive: bytes) -> int:
    answer = httpx.post(f"{url}/predict", files={"file": archive}, timeout=_PATIENCE_SECONDS, trust_env=False)
    return answer.status_code


def _rounds(service: Service, archive: bytes, section: Section) -> None:
    pods = {"predictor": service.predictor.process.pid, "transformer": service.transformer.process.pid}
    begun = time.perf_counter()
    _ask(service.url, archive)
    section.row("one study by itself", f"{time.perf_counter() - begun:.1f} s")
    for number in range(1, ROUNDS + 1):
        begun = time.perf_counter()
        with (
            ThreadPoolExecutor(STUDIES) as clients,
            Peak(pods["predictor"], 0.2) as one,
            Peak(pods["transformer"], 0.2) as other,
        ):
            codes = list(clients.map(lambda _: _ask(service.url, archive), range(STUDIES)))
        taken = time.perf_counter() - begun
        after = " + ".join(f"{settled_mb(pid):.0f}" for pid in pods.values())
        section.row(
            f"round {number}: {STUDIES} at once, answered with 200; seconds; peak memory, predictor + transformer; at rest again",
            f"{codes.count(httpx.codes.OK)}; {taken:.1f} s; {one.mb:.0f} + {other.mb:.0f} MB; {after} MB",
        )


def run() -> Section:
    """The section for the report."""
    section = Section(
        "Eight chest CTs at once",
        f"ZIPs of {ct_volume.COUNT} slices through both pods, the published size with random weights, 2 threads and 2 readers; "
        "memory with all processes of a pod (PSS).",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct_clip.make_in_a_process(folder)
        ct_volume.make(folder / "series.zip")
        archive = (folder / "series.zip").read_bytes()
        env = {"MODEL_ID": str(folder / "models"), "NUM_THREADS": "2", "DEVICE": "cpu"}
        env["REQUEST_TIMEOUT_SECONDS"] = str(_PATIENCE_SECONDS)
        with chest_ct("predictors.ct_clip", env) as service:
            _rounds(service, archive, section)
    return section
