"""The README tells the truth: its commands are run as written, against the service that it says to start."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.speech import RATE
from tests.integration.clips import call_samples, joined
from tests.integration.locally import ROOT, Local, running

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^<!-- run -->\n```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
READER = {  # what the blocks find: the tests' Python, no proxy
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "no_proxy": "localhost,127.0.0.1",
    "NO_PROXY": "localhost,127.0.0.1",
}


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    with running() as started:
        yield started.until_ready()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder with `call.wav`, a sentence of the call, beside what the checkout has."""
    made = tmp_path_factory.mktemp("reader")
    (made / "examples").symlink_to(ROOT / "examples")
    (made / "call.wav").write_bytes(joined(call_samples()[int(12.4 * RATE) : int(17.8 * RATE)]))
    return made


def run(kind: str, block: str, folder: Path) -> str:
    """What a block prints. Raises CalledProcessError."""
    command = {"sh": ["bash", "-euo", "pipefail", "-c", block], "python": [sys.executable, "-c", block]}[kind]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **READER}
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_there_are_blocks_to_run() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}
    assert len(BLOCKS) == README.count("<!-- run -->") >= 5
    runnable = re.findall(r"^```(?:python\n|sh\n(?!make ))", README, re.MULTILINE)
    assert len(runnable) == len(BLOCKS)  # every command that calls the service is marked


@pytest.mark.parametrize(("kind", "block"), BLOCKS, ids=[f"{kind} {n}" for n, (kind, _) in enumerate(BLOCKS, 1)])
def test_a_block_runs_as_written(local: Local, folder: Path, kind: str, block: str) -> None:
    printed = run(kind, block.replace("localhost:8000", f"localhost:{local.port}"), folder)
    assert "localhost:8000" in block
    assert '"error"' not in printed
    sent = block.count("call.wav")
    if sent:
        assert printed.count("New Jersey") >= sent
    else:  # what a pod accepts and how it is
        for told in ('"max_upload_bytes":26214400', '"model_loaded":true', '"ready":true'):
            assert told in printed.replace(" ", "")


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test", "serve"} <= named <= targets


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tables_of_settings_are_fresh() -> None:
    command = [sys.executable, "-m", "serving.reference", "--check"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
