"""POST `/post_one_step_req` and GET `/is_alive`, the engine apart."""

import asyncio
import io
import wave
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.streams import RATE, pcm16
from tests.unit.audio.live import SPEECH, LivePod, live_pod


async def test_a_recording_behind_a_link(pod: LivePod) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(pcm16(np.stack([SPEECH, np.zeros_like(SPEECH)], axis=1)))

    async def site(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        data = file.getvalue()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(site, "127.0.0.1", 0) as server, httpx.AsyncClient(trust_env=False) as http:
        link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.wav"
        url = f"http://{pod.address}/post_one_step_req"
        answer = await http.post(url, json={"AudioFileUrl": link, "do_dialogue": True}, timeout=60)
        assert answer.status_code == 200
        body = answer.json()
        assert (body["success"], body["error_description"]) == (True, "")
        assert list(body["raw_data"]) == ["channel_1"]
        said = " ".join(each["data"]["text"] for each in body["raw_data"]["channel_1"])
        assert body["sentenced_data"]["full_text_only"] == [said]
        assert {each["speaker"] for each in body["sentenced_data"]["list_of_sentenced_recognitions"]} == {"channel_1"}
        short = await http.post(url, json={"AudioFileUrl": link, "keep_raw": False}, timeout=60)
        assert (short.json()["raw_data"], short.json()["sentenced_data"]) == ({}, {})
        for wrong, status in (
            ({"AudioFileUrl": "ftp://x/y"}, 400),
            ({}, 400),
            ({"AudioFileUrl": f"{link[:-5]}#"}, 200),
        ):
            failed = await http.post(url, json=wrong, timeout=60)
            assert failed.status_code == status
            assert failed.json()["success"] is (status == 200)
        alive = await http.get(f"http://{pod.address}/is_alive")
        assert alive.json() == {"error": False, "error_description": None, "data": "is running"}


BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"content": b""}, "the body is not JSON"),
    "no JSON": ({"content": b"{"}, "the body is not JSON"),
    "a list": ({"json": []}, "the body must be a JSON object"),
    "no link": ({"json": {}}, "AudioFileUrl: Field required"),
    "a number": ({"json": {"AudioFileUrl": 1}}, "AudioFileUrl: Input should be a valid string"),
    "no boolean": (
        {"json": {"AudioFileUrl": "ftp://x", "keep_raw": "so"}},
        "keep_raw: Input should be a valid boolean",
    ),
    "null": ({"json": {"AudioFileUrl": "ftp://x", "keep_raw": None}}, "a link must start with http:// or https://"),
}


@pytest.mark.parametrize(("body", "message"), BODIES.values(), ids=BODIES)
async def test_bodies_that_are_no_link(pod: LivePod, body: dict[str, Any], message: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        refused = await http.post(f"http://{pod.address}/post_one_step_req", **body)
    assert (refused.status_code, refused.json()["success"]) == (400, False)
    assert refused.json()["error_description"].startswith(message)


async def test_json_has_the_limits_of_every_json() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(21):
            yield b" " * 1000

    many = {"AudioFileUrl": "http://x/", "z": [[]] * 100}
    async with (
        live_pod(max_json_bytes=20_000, max_json_values=100) as pod,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        url = f"http://{pod.address}/post_one_step_req"
        for body, setting in (({"content": pieces()}, "MAX_JSON_BYTES"), ({"json": many}, "MAX_JSON_VALUES")):
            refused = await http.post(url, **body)
            assert (refused.status_code, refused.json()["success"]) == (413, False)
            assert setting in refused.json()["error_description"]


async def test_json_takes_its_share_of_the_memory_for_bodies() -> None:
    body = {"AudioFileUrl": "ftp://x/" + "y" * 2000}
    async with (
        live_pod(max_body_bytes=1000, max_bodies_bytes=1000, max_upload_bytes=500, max_form_overhead_bytes=500) as pod,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        refused = await http.post(f"http://{pod.address}/post_one_step_req", json=body)
    assert refused.status_code == 503
    assert "MAX_BODIES_BYTES" in refused.json()["error_description"]


async def test_the_body_of_a_link_is_described(pod: LivePod) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        described = (await http.get(f"http://{pod.address}/openapi.json")).json()["paths"]["/post_one_step_req"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"].keys() == {"AudioFileUrl", "keep_raw", "do_dialogue"}
    assert schema["required"] == ["AudioFileUrl"]
