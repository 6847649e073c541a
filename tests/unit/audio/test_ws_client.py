"""The example client, as its users run it: captions to the end, also over connections that the server ends."""

import asyncio
import sys
import wave
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.streams import RATE, pcm16
from tests.unit.audio.live import SPEECH, live_pod

EXAMPLE = Path(__file__).parents[3] / "examples/ws_client.py"


async def run(*arguments: str, stdin: bytes = b"") -> tuple[int, list[str], str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, complaints = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines(), complaints.decode()


@pytest.fixture
def recording(tmp_path: Path) -> str:
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm16(SPEECH))
    return str(tmp_path / "speech.wav")


async def test_a_file_and_standard_input_give_the_same_captions(recording: str) -> None:
    async with live_pod() as pod:
        code, lines, complaints = await run("--url", pod.url("/vosk"), recording)
        assert (code, complaints) == (0, "")
        text = " ".join(lines)  # in how many lines depends on how fast it is recognised
        assert text.count("one") == 3
        code, lines, complaints = await run("--url", pod.url("/vosk"), "-", stdin=pcm16(SPEECH))
        assert (code, " ".join(lines), complaints) == (0, text, "")


async def test_it_comes_again_when_the_server_says_so(recording: str) -> None:
    async with live_pod(stream_session_seconds=1.5) as pod:
        code, lines, complaints = await run("--live", "--url", pod.url("/vosk"), recording)
    assert (code, complaints) == (0, "")
    assert len(lines) >= 3  # a sentence that was under way is told in two parts


async def test_what_cannot_be_done_is_said(recording: str) -> None:
    async with live_pod() as pod:
        code, lines, complaints = await run("--rate", "10", "--url", pod.url("/vosk"), "-", stdin=pcm16(SPEECH))
        assert (code, lines) == (1, [])
        assert "from 4000 to 192000" in complaints
        code, _, complaints = await run("--url", pod.url("/nothing"), recording)
        assert code == 1
        assert "403" in complaints or "404" in complaints


async def test_connections_that_break_now_and_then_are_no_servers_that_stay_away(recording: str) -> None:
    broken = 0

    async def handle(socket: ServerConnection) -> None:
        nonlocal broken
        await socket.recv()
        answered = 0
        async for message in socket:
            await socket.send('{"partial": ""}' if isinstance(message, bytes) else '{"text": "the end"}')
            if isinstance(message, str):
                return
            answered += 1
            if answered == 2 and broken < 12:
                broken += 1
                socket.transport.abort()

    async with serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        assert await run("--url", f"ws://127.0.0.1:{port}", recording) == (0, ["the end"], "")
    assert broken == 12
