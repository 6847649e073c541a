"""The example client, as its users run it."""

import asyncio
import json
import os
import pty
import re
import sys
from pathlib import Path

import imagecodecs
import pytest

from tests.unit.dicom.routes.loopback import ARCHIVE, FILES, LIMIT, SERIES_UID, CtLoopback

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLE = Path(__file__).parents[4] / "examples/ct_client.py"


async def run(*arguments: str | Path, terminal: int | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE if terminal is None else terminal,
    )  # fmt: skip
    out, complaints = await asyncio.wait_for(process.communicate(), 250)
    assert process.returncode is not None
    return process.returncode, out.decode(), (complaints or b"").decode()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.zip"
    path.write_bytes(ARCHIVE)
    return path


async def test_it_tells_what_was_found(pod: CtLoopback, study: Path) -> None:
    code, said, complaints = await run("--url", str(pod.http.base_url), "--file", study)
    assert (code, complaints) == (0, "")
    lines = said.splitlines()
    assert lines[0].startswith("no pathology: probability 0.")
    assert lines[1] == "most dangerous: Lung nodule"
    assert lines[2] == "supervised:"
    assert any(line.startswith("read: 24 of 24 images in ") for line in lines)
    assert lines[-1].startswith("note: ")


async def test_prompts_are_told_without_json_too(pod: CtLoopback, study: Path) -> None:
    code, said, complaints = await run("--url", str(pod.http.base_url), "--file", study, "--prompt", "Грыжа")
    assert (code, complaints) == (0, "")
    lines = said.splitlines()
    at = lines.index("your prompts:")
    assert re.fullmatch(r" +\d\.\d{3}  Грыжа", lines[at + 1])


async def test_files_of_a_series_and_pictures(pod: CtLoopback, tmp_path: Path) -> None:
    series = []
    for number, data in enumerate(FILES):
        series.append(tmp_path / f"IM{number:04d}")
        series[-1].write_bytes(data)
    pictures = tmp_path / "explained"
    flags = ["--series", SERIES_UID, "--prompt", "Грыжа", "--pictures", pictures, "--json"]
    code, said, complaints = await run("--url", f"{pod.http.base_url}/", "--file", *series, *flags)
    assert (code, complaints) == (0, "")
    answer = json.loads(said)
    assert answer["prompts_probabilities"].keys() == {"Грыжа"}
    assert answer["input"]["series"]["chosen_by"] == "request"
    (picture,) = pictures.iterdir()
    assert picture.name in {"01-lung-nodule.png", "01-pleural-effusion.png"}
    assert imagecodecs.png_decode(picture.read_bytes()).shape == (480, 960, 3)


async def test_progress_is_shown_on_a_terminal(pod: CtLoopback, study: Path) -> None:
    reader, terminal = pty.openpty()
    code, _, _ = await run("--url", str(pod.http.base_url), "--file", study, terminal=terminal)
    shown = os.read(reader, 1 << 16).decode()
    os.close(terminal)
    os.close(reader)
    assert code == 0
    assert "100% of 0.1 MB" in shown
    assert shown.index("sending [") < shown.index("sent, it is being read")


async def test_what_cannot_be_done_is_said(pod: CtLoopback, tmp_path: Path) -> None:
    url = str(pod.http.base_url)
    wrong = tmp_path / "wrong.zip"
    wrong.write_bytes(b"no archive" * 99)
    code, said, complaints = await run("--url", url, "--file", wrong)
    assert (code, said) == (1, "")
    assert complaints.startswith("the service refuses: the upload is neither a ZIP")
    wrong.write_bytes(bytes(40 * LIMIT))  # refused by its Content-Length
    code, _, complaints = await run("--url", url, "--file", wrong)
    assert (code, "MAX_UPLOAD_BYTES" in complaints) == (1, True)
    code, _, complaints = await run("--url", "http://127.0.0.1:9", "--file", wrong)
    assert code == 1
    assert complaints.startswith("no answer: ")
