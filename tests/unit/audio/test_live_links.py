"""POST `/post_one_step_req` and GET `/is_alive`, the engine apart."""

import asyncio
import io
import wave

import httpx
import numpy as np

from tests.streams import RATE, pcm16
from tests.unit.audio.live import SPEECH, LivePod


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
