"""What happens to requests when something goes: the predictor, the time, the pod, the client.

Each test has pods of its own; a transformer costs two seconds.
"""

import base64
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.bench.speech import speech, wav
from tests.conftest import StartPod
from tests.integration.clips import HELLO, clip, words
from tests.pods import Pod, free_port
from tests.services import Service
from tests.unit.serving.uploads.spooling import spooled

PREDICT = "/v1/models/whisper:predict"
WEIGHTS = {"MODEL_ID": "demo:whisper-base", "NUM_THREADS": "2", "BEAM_SIZE": "1", "TEMPERATURES": "0"}


def address(pod: Pod) -> str:
    return pod.url.removeprefix("http://")


def v1_body(audio: bytes) -> dict[str, Any]:
    return {"instances": [{"audio": {"b64": base64.b64encode(audio).decode()}}]}


def post(pod: Pod, path: str, audio: bytes, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    """A request on any route that takes a recording."""
    sent: dict[str, Any] = {"json": v1_body(audio)} if path == PREDICT else {"files": {"file": audio}, "data": fields}
    return httpx.post(pod.url + path, headers=headers, timeout=120, trust_env=False, **sent)


def message(path: str, answer: httpx.Response) -> str:
    """The error's text, out of the dialect of the route."""
    body = answer.json()
    if path.startswith("/v1/audio"):
        assert list(body) == ["error"]
        return str(body["error"]["message"])
    if path == PREDICT:
        assert list(body) == ["error"]
    else:
        assert list(body) == ["success", "error"]
    return str(body["error"])


def health(pod: Pod) -> Any:
    return httpx.get(f"{pod.url}/health", trust_env=False).json()


ROUTES = ["/v1/audio/transcriptions", "/transcribe", PREDICT]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


# --- the predictor ---


def test_a_predictor_that_dies_in_flight_and_comes_back(start_pod: StartPod, threads: ThreadPoolExecutor) -> None:
    predictor = start_pod("predictors.whisper", "whisper", WEIGHTS)
    flags = {"predictor_host": address(predictor), "decode_workers": 2, "hop_concurrency": 1}
    transformer = start_pod("transformers_pre.audio", "whisper", **flags).until_ready()
    predictor.until_ready()
    with openai.OpenAI(base_url=f"{transformer.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        create = client.audio.transcriptions.create
        stream = create(file=wav(speech(100)[0]), model="w", stream=True)
        begun = next(iter(stream))  # there is always one more window of it at the predictor
        plain = threads.submit(create, file=clip(HELLO), model="w")
        early = threads.submit(create, file=clip(HELLO), model="w", stream=True)
        others = {path: threads.submit(post, transformer, path, clip(HELLO)) for path in ROUTES}
        predictor.until_in_flight(6)
        predictor.send(signal.SIGKILL)
        told: list[str] = []
        for future in (plain, early):
            with pytest.raises(openai.InternalServerError) as caught:
                future.result(60)
            assert (caught.value.status_code, caught.value.code) == (503, "predictor_unavailable")
            assert caught.value.response.headers["retry-after"] == "1"
            told.append(caught.value.message)
        with pytest.raises(openai.APIError) as broken:  # HTTP 200 and some text were sent: an event says what happened
            list(stream)
        assert begun.type == "transcript.text.delta"
        told.append(broken.value.message)
    for path, future in others.items():
        answer = future.result(60)
        assert answer.status_code == 503
        told.append(message(path, answer))
    for text in told:
        assert "the predictor went away while it worked on this request" in text
        assert address(predictor) not in text
        assert "127.0.0.1" not in text
    assert transformer.status("/v2/health/ready") == 200
    assert health(transformer) == {"status": "ok", "device": "cpu", "model_loaded": False}

    # The next request comes before the new process does: it waits.
    waiting = threads.submit(post, transformer, "/v1/audio/transcriptions", clip(HELLO))
    transformer.until(lambda: transformer.metric("sonotome_hop_retries_total", reason="connect") > 0, "a retry")
    start_pod("predictors.whisper", "whisper", WEIGHTS, http_port=predictor.http_port)
    assert words(waiting.result(60).json()["text"]) == ["hello", "world"]
    assert transformer.process.poll() is None
    assert health(transformer)["model_loaded"] is True


@pytest.fixture(scope="module")
def alone(start_shared_pod: StartPod) -> Pod:
    """A transformer without its predictor."""
    host = f"127.0.0.1:{free_port()}"
    return start_shared_pod("transformers_pre.audio", "whisper", predictor_host=host, decode_workers=1).until_ready()


PATIENCE = {"x-request-timeout-seconds": "3"}  # the recording has to be decoded in it


@pytest.mark.parametrize("path", ROUTES)
def test_no_predictor_at_all(alone: Pod, path: str) -> None:
    answer = post(alone, path, clip(HELLO), PATIENCE)
    assert (answer.status_code, message(path, answer)) == (503, "the predictor cannot be reached")
    assert answer.headers["retry-after"] == "1"


def test_no_predictor_for_a_stream(alone: Pod) -> None:
    answer = post(alone, ROUTES[0], clip(HELLO), PATIENCE, stream="true")
    assert (answer.status_code, message(ROUTES[0], answer)) == (503, "the predictor cannot be reached")


def test_a_transformer_is_ready_and_honest_without_its_predictor(alone: Pod) -> None:
    assert alone.status("/v2/models/whisper/ready") == 200
    assert health(alone) == {"status": "ok", "device": None, "model_loaded": False}


# --- deadlines ---


@pytest.mark.parametrize("path", ROUTES)
def test_a_deadline_that_is_too_short(service: Service, path: str) -> None:
    answer = post(service.transformer, path, clip(HELLO), {"x-request-timeout-seconds": "0.1"})
    assert answer.status_code == 504
    assert "0.1 s" in message(path, answer)


def test_a_deadline_of_a_stream_holds_while_it_waits_for_a_decoder(
    service: Service, start_pod: StartPod, threads: ThreadPoolExecutor
) -> None:
    flags = {"predictor_host": address(service.predictor), "decode_workers": 1, "hop_concurrency": 1}
    transformer = start_pod("transformers_pre.audio", "whisper", **flags).until_ready()
    with httpx.stream(  # a recording that keeps the only decoder for minutes
        "POST",
        f"{transformer.url}{ROUTES[0]}",
        files={"file": wav(speech(150)[0])},
        data={"stream": "true"},
        timeout=120,
        trust_env=False,
    ) as held:
        lines = held.iter_lines()  # kept: a generator that is dropped closes the connection, and frees the decoder
        next(lines)
        waiting = [
            threads.submit(
                post, transformer, ROUTES[0], clip(HELLO), {"x-request-timeout-seconds": "0.4"}, stream=stream
            )
            for stream in ("true", "false")
        ]
        for future in waiting:
            answer = future.result(60)
            assert (answer.status_code, message(ROUTES[0], answer)) == (504, "the request took longer than its 0.4 s")


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan"])
def test_a_deadline_that_makes_no_sense(service: Service, seconds: str) -> None:
    answer = post(service.transformer, ROUTES[0], clip(HELLO), {"x-request-timeout-seconds": seconds})
    assert answer.status_code == 400
    assert "x-request-timeout-seconds must be a number of seconds above 0" in message(ROUTES[0], answer)


# --- the pod stops ---


def test_a_transformer_finishes_what_it_has_begun(
    service: Service, start_pod: StartPod, call: bytes, threads: ThreadPoolExecutor
) -> None:
    transformer = start_pod(
        "transformers_pre.audio", "whisper", predictor_host=address(service.predictor)
    ).until_ready()
    with openai.OpenAI(base_url=f"{transformer.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        stream = client.audio.transcriptions.create(file=wav(speech(39)[0]), model="w", stream=True)
        first = next(iter(stream))
        begun = {path: threads.submit(post, transformer, path, clip(HELLO)) for path in ROUTES}
        transformer.until_in_flight(4)
        transformer.send(signal.SIGTERM)
        transformer.until(lambda: transformer.status("/v2/health/ready") == 503, "draining")
        for path in ROUTES:
            refused = post(transformer, path, clip(HELLO))
            assert refused.status_code == 503
            assert "this pod is shutting down" in message(path, refused)
        *deltas, done = [first, *stream]
        assert done.type == "transcript.text.done"
        assert "".join(event.delta for event in deltas) == done.text
        texts = {path: future.result(60) for path, future in begun.items()}
    assert {answer.status_code for answer in texts.values()} == {200}
    assert words(texts[ROUTES[0]].json()["text"]) == words(texts["/transcribe"].json()["text"]) == ["hello", "world"]
    assert words(texts[PREDICT].json()["predictions"][0]["text"]) == ["hello", "world"]
    assert transformer.wait() == 0


# --- a client leaves ---


def request(path: str, audio: bytes, fields: str = "") -> bytes:
    """A whole HTTP request, for a socket that will be closed on it."""
    if path == PREDICT:
        body, kind = httpx.Request("POST", "http://x", json=v1_body(audio)).read(), "application/json"
    else:
        kind = "multipart/form-data; boundary=cut"
        form = f'--cut\r\ncontent-disposition: form-data; name="stream"\r\n\r\n{fields}\r\n' if fields else ""
        form += '--cut\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = form.encode() + audio + b"\r\n--cut--\r\n"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_clients_that_leave_cost_nothing_any_more(service: Service, start_pod: StartPod, tmp_path: Path) -> None:
    flags = {"predictor_host": address(service.predictor), "decode_workers": 1, "hop_concurrency": 2}
    transformer = start_pod("transformers_pre.audio", "whisper", {"TMPDIR": str(tmp_path)}, **flags).until_ready()
    audio = wav(speech(200)[0])  # the one decoder is not done with it when the client leaves
    requests = [request(ROUTES[0], audio, "true"), request(ROUTES[0], audio), request(PREDICT, audio)]
    half = request("/transcribe", audio)[: len(audio) // 2]
    with ExitStack() as clients:
        for data in (*requests, half):
            client = socket.create_connection(("127.0.0.1", transformer.http_port))
            clients.enter_context(client).sendall(data)
            if data is requests[0]:
                service.predictor.until(
                    lambda: service.predictor.metric("sonotome_requests_in_flight") > 0, "a window of it"
                )
        transformer.until_in_flight(4)
        transformer.until(lambda: len(spooled(tmp_path, transformer.process.pid)) == 4, "four uploads on disk")
        assert list(tmp_path.iterdir()) == []  # none has a name, so that none outlives the process
    transformer.until_in_flight(0)
    assert spooled(tmp_path, transformer.process.pid) == []
    service.predictor.until_in_flight(0)
    assert service.predictor.metric("sonotome_batch_queue_length", model_name="whisper") == 0
    # The decoder is free, and so is the predictor.
    assert words(post(transformer, ROUTES[0], clip(HELLO)).json()["text"]) == ["hello", "world"]
