"""What the Whisper service refuses on every family of routes, in its dialect: damaged files, files over a limit, bad links."""

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.bench.speech import speech, wav
from tests.conftest import StartPod
from tests.integration.clips import FOX, HELLO, clip, encoded, joined, samples, silence, words
from tests.pods import Pod
from tests.services import Service
from tests.unit.serving.uploads.spooling import spooled

MOST_SECONDS = 4
MOST_BYTES = 150_000
MOST_FIELDS = 8
MOST_JSON = 300_000
PREDICT = "/v1/models/whisper:predict"
GOOD = joined(samples(HELLO))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pod spools recordings."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def pod(service: Service, start_shared_pod: StartPod, folder: Path) -> Pod:
    """A transformer with narrow limits, which may fetch from this machine, over the shared predictor."""
    limits = {"max_audio_seconds": MOST_SECONDS, "max_upload_bytes": MOST_BYTES, "max_form_fields": MOST_FIELDS}
    limits["max_json_bytes"] = MOST_JSON
    predictor = service.predictor.url.removeprefix("http://")
    environment = {"TMPDIR": str(folder)}
    return start_shared_pod(
        "transformers_pre.audio", "whisper", environment, predictor_host=predictor, url_allow="127.0.0.1", **limits
    ).until_ready()


@pytest.fixture(autouse=True)
def nothing_is_left(pod: Pod, folder: Path) -> Iterator[None]:
    """Whatever was refused, no recording stays on disk."""
    yield
    assert list(folder.iterdir()) == []
    assert spooled(folder, pod.process.pid) == []


Outcome = tuple[int, str]
"""A status and the message of the error, taken out of the shape that the route's clients expect."""


def by_openai(pod: Pod, audio: bytes) -> Outcome:
    answer = httpx.post(f"{pod.url}/v1/audio/transcriptions", files={"file": audio}, timeout=60, trust_env=False)
    error = answer.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["type"] == "invalid_request_error"
    return answer.status_code, error["message"]


def by_openai_stream(pod: Pod, audio: bytes) -> Outcome:
    answer = httpx.post(
        f"{pod.url}/v1/audio/transcriptions",
        files={"file": audio},
        data={"stream": "true"},
        timeout=60,
        trust_env=False,
    )
    assert answer.headers["content-type"] == "application/json"  # no stream began
    return answer.status_code, answer.json()["error"]["message"]


def by_transcribe(pod: Pod, audio: bytes) -> Outcome:
    answer = httpx.post(f"{pod.url}/transcribe", files={"file": audio}, timeout=60, trust_env=False)
    assert answer.json()["success"] is False
    return answer.status_code, answer.json()["error"]


def by_v1(pod: Pod, audio: bytes) -> Outcome:
    body = {"instances": [{"audio": {"b64": base64.b64encode(audio).decode()}}]}
    answer = httpx.post(pod.url + PREDICT, json=body, timeout=60, trust_env=False)
    assert list(answer.json()) == ["error"]
    return answer.status_code, answer.json()["error"]


def by_v2(pod: Pod, audio: bytes) -> Outcome:
    tensor = triton.InferInput("AUDIO_FILE", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([audio], np.object_))
    with (
        closing(triton.InferenceServerClient(pod.url.removeprefix("http://"))) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("whisper", [tensor])
    return int(caught.value.status()), caught.value.message()


ROUTES = [by_openai, by_openai_stream, by_transcribe, by_v1, by_v2]
Route = Callable[[Pod, bytes], Outcome]


def claiming(size: int) -> bytes:
    """A WAV file whose header says that it holds so many bytes of samples."""
    return GOOD[:40] + size.to_bytes(4, "little") + GOOD[44:]


def long_list(size: int) -> bytes:
    """A WAV file in which a list of tags before the samples claims to be of so many bytes."""
    return GOOD[:36] + b"LIST" + size.to_bytes(4, "little") + b"INFO" + GOOD[36:]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("audio", "status", "message"),
    [
        (b"", 400, "the file is empty: it has 0 bytes"),
        (b"This is a text that was named speech.mp3. " * 50, 415, "the file is no audio that is read here"),
        (b"<!DOCTYPE html><html><body>404</body></html>", 415, "the file is no audio that is read here"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), 415, "the file is no audio that is read here"),
        (b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1/a.ts\n", 415, "the file is no audio that is read here"),
        (GOOD[: len(GOOD) // 2], 422, "the file is cut off: its header declares"),
        (encoded(samples(FOX), "FLAC")[:30_000], 422, "the file is cut off or damaged: it should hold 2.9 s of audio"),
        (claiming(2_000_000_000), 422, "the file is cut off: its header declares 2000000000 bytes of samples"),
        (long_list(2_000_000_000), 422, "the file is cut off: its header declares 2000000044 bytes"),
    ],
    ids=["empty", "text", "html", "image", "playlist", "half a WAV", "half a FLAC", "2 GB of samples", "2 GB of tags"],
)
def test_damaged_files(pod: Pod, route: Route, audio: bytes, status: int, message: str) -> None:
    found, told = route(pod, audio)
    assert (found, told[: len(message)]) == (status, message)


@pytest.mark.parametrize("route", ROUTES)
def test_recordings_that_are_too_long(pod: Pod, route: Route) -> None:
    status, message = route(pod, encoded(silence(MOST_SECONDS + 1), "FLAC"))
    assert status == 413
    assert f"longer than {MOST_SECONDS} s, the limit here (MAX_AUDIO_SECONDS)" in message


@pytest.mark.parametrize("route", ROUTES)
def test_recordings_of_too_many_bytes(pod: Pod, route: Route) -> None:
    status, message = route(pod, GOOD + bytes(MOST_BYTES))
    assert status == 413
    assert f"larger than {MOST_BYTES} bytes" in message
    assert "MAX_UPLOAD_BYTES" in message


def test_in_v1s_json_the_smaller_of_two_limits_counts(pod: Pod) -> None:
    status, message = by_v1(pod, bytes(MOST_BYTES + 1))  # 200 kB as base64
    assert (status, "(MAX_UPLOAD_BYTES)" in message) == (413, True)
    status, message = by_v1(pod, bytes(MOST_JSON * 3 // 4))  # as base64 all of the JSON, and its names are not in yet
    assert (status, "(MAX_JSON_BYTES)" in message) == (413, True)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_samples_that_are_too_many(pod: Pod, rate: int) -> None:
    audio = triton.InferInput("AUDIO", [1, MOST_SECONDS * rate + 1], "FP32")
    audio.set_data_from_numpy(np.zeros((1, MOST_SECONDS * rate + 1), np.float32))
    with (
        closing(triton.InferenceServerClient(pod.url.removeprefix("http://"))) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("whisper", [audio], parameters={"sample_rate": rate})
    assert caught.value.status() == "413"
    assert f"longer than {MOST_SECONDS} s, the limit here (MAX_AUDIO_SECONDS): it has" in caught.value.message()


def test_text_fields_that_are_too_many(pod: Pod) -> None:
    data = {f"field{number}": "x" for number in range(MOST_FIELDS + 1)}
    for path in ("/v1/audio/transcriptions", "/transcribe"):
        answer = httpx.post(pod.url + path, files={"file": GOOD}, data=data, timeout=60, trust_env=False)
        assert answer.status_code == 413
        assert f"more than {MOST_FIELDS} fields besides its files, the limit here (MAX_FORM_FIELDS)" in answer.text


def test_the_limits_are_told(pod: Pod) -> None:
    limits = httpx.get(f"{pod.url}/v1/limits", trust_env=False).json()
    assert (limits["max_audio_seconds"], limits["max_upload_bytes"]) == (MOST_SECONDS, MOST_BYTES)
    assert limits["max_form_fields"] == MOST_FIELDS


def test_a_good_file_is_still_read(pod: Pod) -> None:
    answer = httpx.post(f"{pod.url}/v1/audio/transcriptions", files={"file": GOOD}, timeout=60, trust_env=False)
    assert words(answer.json()["text"]) == ["hello", "world"]


# --- more recordings than there are decoders ---


def test_recordings_that_would_wait_too_long_are_refused(service: Service, start_pod: StartPod) -> None:
    flags = {"decode_workers": 1, "decode_queue": 1, "max_instances": 2, "hop_concurrency": 1}
    host = service.predictor.url.removeprefix("http://")
    pod = start_pod("transformers_pre.audio", "whisper", predictor_host=host, **flags).until_ready()
    path = f"{pod.url}/v1/audio/transcriptions"
    with ThreadPoolExecutor(1) as threads:
        with httpx.stream(  # a recording that keeps the only decoder for minutes
            "POST", path, files={"file": wav(speech(150)[0])}, data={"stream": "true"}, timeout=120, trust_env=False
        ) as held:
            lines = held.iter_lines()  # kept: a generator that is dropped closes the connection
            next(lines)
            waiting = threads.submit(httpx.post, path, files={"file": GOOD}, timeout=120, trust_env=False)
            pod.until(lambda: pod.metric("sonotome_decode_queue_length") == 1, "one that waits")
            for route in ROUTES:
                if route is not by_openai:  # it wants an error of the client's
                    status, message = route(pod, GOOD)
                    assert status == 503
                    assert "as many recordings wait as may: 1, the limit here (DECODE_QUEUE)" in message
            refused = httpx.post(path, files={"file": GOOD}, timeout=60, trust_env=False)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "decoders_busy"
        assert words(waiting.result().json()["text"]) == ["hello", "world"]
    assert pod.metric("sonotome_decode_queue_length") == 0


# --- links ---


class Files(BaseHTTPRequestHandler):
    """A web server with a recording, and with what else a link may lead to."""

    def do_GET(self) -> None:
        bodies = {"/hello.wav": clip(HELLO), "/large.wav": clip(HELLO) + bytes(MOST_BYTES), "/page": b"<html></html>"}
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", f"http://127.0.0.2:{self.server.server_address[1]}/hello.wav")
            self.end_headers()
            return
        body = bodies.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_links_and_base64_in_one_request(pod: Pod, files: str) -> None:
    link = {"url": f"{files}/hello.wav"}
    instances = [{"audio": link}, link, {"audio": {"b64": base64.b64encode(GOOD).decode()}}]
    answer = httpx.post(pod.url + PREDICT, json={"instances": instances}, timeout=60, trust_env=False)
    found = answer.json()["predictions"]
    assert [words(each["text"]) for each in found] == [["hello", "world"]] * 3


@pytest.mark.parametrize(
    ("link", "status", "message"),
    [
        ("{files}/moved", 400, "the link's host does not exist, or is not public"),  # to an address that is not allowed
        ("http://169.254.169.254/latest/meta-data/", 400, "the link's host does not exist, or is not public"),
        ("file:///etc/passwd", 400, "a link must start with http:// or https:// and name a host"),
        ("{files}/missing", 422, "the link's host answers with HTTP status 404"),
        (
            "{files}/large.wav",
            413,
            f"the file is larger than {MOST_BYTES} bytes (0.143051 MiB), the limit here (MAX_",
        ),
        ("{files}/" + "a" * 9000, 413, "the link has more than 8192 characters, the limit here (URL_MAX_CHARACTERS)"),
        ("{files}/page", 415, "the file is no audio that is read here"),
    ],
)
def test_links_that_are_refused(pod: Pod, files: str, link: str, status: int, message: str) -> None:
    body = {"instances": [{"audio": {"b64": base64.b64encode(GOOD).decode()}}, {"url": link.format(files=files)}]}
    refused = httpx.post(pod.url + PREDICT, json=body, timeout=60, trust_env=False)
    assert (refused.status_code, refused.json()["error"][: len(message)]) == (status, message)
