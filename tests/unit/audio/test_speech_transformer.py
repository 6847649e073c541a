"""How V1 and V2 requests become recordings: bounded in number and size, spooled off the event loop, freed whatever happens."""

import asyncio
import base64
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import InferRequest

from serving import v2
from serving.errors import InvalidInput, ServingError, TooLarge
from serving.known_predictor import KnownPredictor
from tests.unit.serving.uploads.spooling import content, named, spooled
from transformers_pre.audio.container_stream import ContainerPool
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.model import SpeechTransformer
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.source import Waveform
from transformers_pre.audio.transcribe import Transcriber

LIMIT = 1_000_000
LARGE = bytes(range(256)) * (LIMIT // 256)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where recordings are spooled to; no test leaves anything there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert named(tmp_path) == []
    assert spooled(tmp_path) == []


@pytest.fixture
async def speech() -> AsyncIterator[SpeechTransformer]:
    """The model, with neither decoders nor a predictor: requests are read, no more."""
    settings = AudioSettings(model_name="speech", max_upload_bytes=LIMIT, max_instances=3)
    client, media = KnownPredictor("127.0.0.1:1", "speech"), DecoderPool(settings.media_limits())
    containers = ContainerPool(1, settings.media_limits())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        yield SpeechTransformer(Transcriber(client, media, settings), client, media, containers, settings)


def v1(*texts: str) -> dict[str, Any]:
    return {"instances": [{"audio": {"b64": text}} for text in texts]}


def v2_files(*files: bytes) -> InferRequest:
    return v2.request("speech", {"AUDIO_FILE": v2.bytes_array(files)})


async def recordings(speech: SpeechTransformer, payload: Any) -> list[bytes]:
    _, requests, uploads, _ = await speech.preprocess(payload)
    with uploads:
        return [content(each.source) for each in requests if not isinstance(each.source, Waveform)]


async def refusal(speech: SpeechTransformer, payload: Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        await speech.preprocess(payload)
    return caught.value


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("size", [1, 2, 3, 196_607, 196_608, 196_609, LIMIT // 256 * 256])
async def test_base64_is_decoded_as_the_library_does(speech: SpeechTransformer, size: int) -> None:
    data = LARGE[:size]
    assert await recordings(speech, v1(encoded(data))) == [data]


async def test_white_space_in_base64_counts_for_nothing(speech: SpeechTransformer) -> None:
    lines = base64.encodebytes(LARGE).decode().replace("\n", "\r\n")
    assert await recordings(speech, v1(lines, " e A = =\n")) == [LARGE, b"x"]


@pytest.mark.parametrize(
    "text",
    [
        *("@@@@", "QUJ", "QUJD=", "Q===", "QUI=QUI=", "QÜJD", "QUJ-"),
        encoded(bytes(196_607)) + encoded(b"more"),  # ends with a piece, and so does its padding
        encoded(bytes(300_000)) + "?",
    ],
    ids=lambda text: text[:8],
)
async def test_what_is_no_base64(speech: SpeechTransformer, text: str) -> None:
    error = await refusal(speech, v1(encoded(b"good"), text))
    assert isinstance(error, InvalidInput)
    assert error.message == "instances[1].audio.b64 is not base64"
    assert error.param == "instances[1].audio.b64"


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        (v1(encoded(b"good"), encoded(LARGE + bytes(1000))), "instances[1].audio.b64"),
        (v2_files(b"good", LARGE + bytes(1000)), "AUDIO_FILE"),
    ],
    ids=["V1", "V2"],
)
async def test_recordings_over_the_limit(speech: SpeechTransformer, payload: Any, param: str) -> None:
    error = await refusal(speech, payload)
    assert isinstance(error, TooLarge)
    assert f"larger than {LIMIT} bytes" in error.message
    assert "(MAX_UPLOAD_BYTES)" in error.message
    assert error.param == param


@pytest.mark.parametrize(("payload", "param"), [(v1(""), "instances[0].audio.b64"), (v2_files(b""), "AUDIO_FILE")])
async def test_empty_recordings(speech: SpeechTransformer, payload: Any, param: str) -> None:
    error = await refusal(speech, payload)
    assert (error.http_status, error.code, error.param) == (400, "empty_file", param)


@pytest.mark.parametrize(
    "payload",
    [v1(*["QUJD"] * 4), v2_files(*[b"ABC"] * 4), v2.request("speech", {"AUDIO": np.zeros((4, 9), np.float32)})],
    ids=["V1", "V2 files", "V2 samples"],
)
async def test_the_number_of_recordings_is_a_setting(speech: SpeechTransformer, payload: Any) -> None:
    error = await refusal(speech, payload)
    assert isinstance(error, TooLarge)
    assert error.message == "the request holds 4 items, 1 to 3 are accepted (MAX_INSTANCES)"


@pytest.mark.parametrize(
    ("tensors", "param"),
    [
        ({"AUDIO": np.zeros((1, 9))}, "AUDIO"),
        ({"AUDIO": np.zeros((1, 2, 9), np.float32)}, "AUDIO"),
        ({"AUDIO": np.full((1, 9), np.nan, np.float32)}, "AUDIO"),
        ({"AUDIO": np.zeros((1, 9), np.float32), "LENGTHS": np.full(1, 10, np.int32)}, "LENGTHS"),
        ({"AUDIO": np.zeros((1, 9), np.float32), "LENGTHS": np.ones(2, np.int32)}, "LENGTHS"),
    ],
    ids=["float64", "three dimensions", "NaN", "too long", "too many lengths"],
)
async def test_samples_of_v2_are_checked_as_the_contract_does(
    speech: SpeechTransformer, tensors: dict[str, Any], param: str
) -> None:
    error = await refusal(speech, v2.request("speech", tensors))
    assert (error.http_status, error.param) == (400, param)


async def test_no_bytes_cannot_ask_for_a_billion_recordings(speech: SpeechTransformer) -> None:
    text = b'{"inputs":[{"name":"AUDIO","shape":[2147483648,0],"datatype":"FP32","parameters":{"binary_data_size":0}}]}'
    error = await refusal(speech, v2.decode_request(text, len(text), "speech"))
    assert "2147483648 items, 1 to 3 are accepted (MAX_INSTANCES)" in error.message


async def test_one_recording_may_come_as_a_row(speech: SpeechTransformer) -> None:
    tensors = {"AUDIO": np.arange(9, dtype=np.float32), "LENGTHS": np.array([4], np.int32)}
    _, (request,), uploads, _ = await speech.preprocess(v2.request("speech", tensors))
    uploads.close()
    assert isinstance(request.source, Waveform)
    assert request.source.samples.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("rate", [3_999, 192_001, "fast", float("inf")])
async def test_sample_rates_that_are_not_accepted(speech: SpeechTransformer, rate: Any) -> None:
    error = await refusal(speech, v2.request("speech", {"AUDIO": np.zeros((1, 9), np.float32)}, {"sample_rate": rate}))
    assert (error.http_status, error.param) == (400, "sample_rate")
    assert error.message.startswith("sample_rate must be 4000 to 192000 Hz, got")


async def test_files_of_v2_are_spooled_as_they_are(speech: SpeechTransformer) -> None:
    assert await recordings(speech, v2_files(LARGE, b"x", bytes(300_000))) == [LARGE, b"x", bytes(300_000)]


async def test_a_large_recording_is_decoded_in_small_pieces_off_the_event_loop(
    speech: SpeechTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding holds Python's lock for a whole call, so that the event loop waits for it wherever it runs."""
    calls = []
    decode = base64.b64decode

    def noted(text: str, *, validate: bool) -> bytes:
        calls.append((len(text), threading.get_ident()))
        return decode(text, validate=validate)

    monkeypatch.setattr(base64, "b64decode", noted)
    assert await recordings(speech, v1(encoded(LARGE))) == [LARGE]
    assert max(size for size, _ in calls) <= 1 << 18
    assert threading.get_ident() not in {thread for _, thread in calls}


async def test_a_client_that_leaves_while_its_recording_is_decoded(
    speech: SpeechTransformer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hanging(_text: str, *, validate: bool) -> bytes:
        begun.set()
        go_on.wait(10)
        return b"decoded"

    monkeypatch.setattr(base64, "b64decode", hanging)
    task = asyncio.create_task(speech.preprocess(v1("QUJD")))
    await asyncio.to_thread(begun.wait, 10)
    assert len(spooled(folder)) == 1
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spooled(folder) == []


async def test_of_a_request_that_is_refused_nothing_stays_open(speech: SpeechTransformer, folder: Path) -> None:
    await refusal(speech, {"instances": [*v1(encoded(LARGE))["instances"], "no recording"]})
    assert spooled(folder) == []
