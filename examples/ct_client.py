#!/usr/bin/env python3
"""Sends a chest CT to the service and tells what was found; the standard library is all that it wants.

    python examples/ct_client.py --url http://127.0.0.1:8000 --file study.zip
    python examples/ct_client.py --url http://127.0.0.1:8000 --file series/*.dcm --pictures explained

One ZIP, tar or multi-frame file, or all files of a series. `--json` prints the answer as it came.
"""

import argparse
import base64
import contextlib
import http.client
import json
import re
import sys
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

PIECE = 1 << 18
BAR = 40  # characters
SHOWN = 8  # findings


class Form:
    """A multipart form of text fields and files, which is read from disk as it is sent."""

    def __init__(self, fields: list[tuple[str, str]], files: list[Path]):
        self._boundary = uuid.uuid4().hex
        self._texts = b"".join(self._head(f'name="{name}"') + value.encode() + b"\r\n" for name, value in fields)
        self._files = files
        self._end = f"--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        """The header's value."""
        return f"multipart/form-data; boundary={self._boundary}"

    def _head(self, disposition: str) -> bytes:
        return f"--{self._boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()

    def _file_head(self) -> bytes:
        return self._head('name="file"; filename="study"')  # the service reads no names, and they may name somebody

    def __len__(self) -> int:
        around = len(self._file_head()) + len(b"\r\n")
        return len(self._texts) + sum(around + path.stat().st_size for path in self._files) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        yield self._texts
        for path in self._files:
            yield self._file_head()
            with path.open("rb") as file:
                yield from pieces(file)
            yield b"\r\n"
        yield self._end


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """What a file holds."""
    while data := file.read(PIECE):
        yield data


class Progress:
    """A bar on the terminal; nothing where the output goes elsewhere."""

    def __init__(self, total: int, out: Any = sys.stderr):
        self._total = total
        self._sent = 0
        self._out = out if out.isatty() else None

    def add(self, size: int) -> None:
        """So many bytes more are on their way."""
        self._sent += size
        done = self._sent / self._total
        self._show(f"sending [{'#' * int(BAR * done):<{BAR}}] {done:4.0%} of {self._total / 1e6:.1f} MB")

    def wait(self) -> None:
        """All of it is sent."""
        self._show("sent, it is being read …")

    def clear(self) -> None:
        """Takes the bar off."""
        self._show("")

    def _show(self, text: str) -> None:
        if self._out is not None:
            self._out.write(f"\r\033[K{text}")
            self._out.flush()


def send(url: str, form: Form, headers: dict[str, str], seconds: float) -> dict[str, Any]:
    """The service's answer. Raises OSError or http.client.HTTPException when there is none."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    progress = Progress(len(form))
    with contextlib.closing(connection):
        connection.putrequest("POST", parts.path.rstrip("/") + "/predict")
        for name, value in {"Content-Type": form.content_type, "Content-Length": str(len(form)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        # A refusal may come before all is sent; it is read below.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for data in form:
                connection.send(data)
                progress.add(len(data))
            progress.wait()
        try:
            response = connection.getresponse()
            body = response.read()
        finally:
            progress.clear()
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        raise http.client.HTTPException(f"status {response.status} without JSON") from None
    return answer


def summary(answer: dict[str, Any]) -> str:
    """What was found, for people."""
    lines = []
    if answer["probability_of_pathology"] is not None:
        verdict = "pathology" if answer["pathology"] else "no pathology"
        lines.append(f"{verdict}: probability {answer['probability_of_pathology']:.3f}")
        if answer["most_dangerous_pathology_type"]:
            lines.append(f"most dangerous: {answer['most_dangerous_pathology_type']}")
    for title, key in (("supervised", "supervised_probabilities"), ("CT-CLIP", "ctclip_probabilities")):
        found = sorted(answer[key].items(), key=lambda item: -item[1])[:SHOWN]
        lines += listed(title, found)
    lines += listed("your prompts", list(answer.get("prompts_probabilities", {}).items()))
    used = answer["input"]["slices"]
    lines.append(f"read: {used['used']} of {used['received']} images in {answer['time_of_processing']:.1f} s")
    lines += [f"note: {warning}" for warning in answer["input"]["warnings"]]
    return "\n".join(lines)


def listed(title: str, found: list[tuple[str, float]]) -> list[str]:
    """Findings with their probabilities, a line each; none without any."""
    return [f"{title}:"] * bool(found) + [f"  {probability:6.3f}  {name}" for name, probability in found]


def write_pictures(answer: dict[str, Any], folder: Path) -> None:
    """The pictures of an explanation, a file a finding."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(answer.get("explanations", []), 1):
        name = re.sub(r"\W+", "-", each["finding"]).strip("-").lower()
        (folder / f"{number:02d}-{name}.png").write_bytes(base64.b64decode(each["png"]))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service")
    parser.add_argument("--file", nargs="+", type=Path, required=True, help="an archive, or the files of a series")
    parser.add_argument("--series", help="SeriesInstanceUID of the series to read")
    parser.add_argument("--prompt", action="append", default=[], help="a finding in your own words; may be repeated")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where pictures of the findings go")
    parser.add_argument("--json", action="store_true", help="print the answer as it came")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds without a sign of the service")
    parser.add_argument("--key", help="API key")
    options = parser.parse_args()
    fields = [("prompts", prompt) for prompt in options.prompt]
    fields += [("series_uid", options.series)] * bool(options.series)
    fields += [("explain", "true")] * bool(options.pictures)
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    try:
        answer = send(options.url, Form(fields, options.file), headers, options.timeout)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer: {error}")
    if answer.get("processing_status") != "Success":
        sys.exit(f"the service refuses: {answer.get('error', answer)}")
    if options.pictures:
        write_pictures(answer, options.pictures)
    sys.stdout.write((json.dumps(answer, ensure_ascii=False, indent=2) if options.json else summary(answer)) + "\n")


if __name__ == "__main__":
    main()
