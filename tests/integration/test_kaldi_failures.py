"""Live speech when something goes: the predictor, the transformer. Not a word is lost. Each test has pods of its own."""

import asyncio
import signal
import sys
import wave
from pathlib import Path
from typing import Any

import jiwer
import pytest

from tests.conftest import StartPod
from tests.integration.locally import ROOT
from tests.pods import Pod
from tests.russian import joined, sentences
from tests.services import MODELS, STARTING_SECONDS
from tests.streams import EOF, RATE, answers, connected, pcm16, send

SAID, SOUNDS = sentences(6, seed=2)
SPEECH = joined(SOUNDS)
MOST_ERRORS = 0.05  # of words, as for the models alone
MODEL = {"MODEL_ID": str(MODELS / "vosk5"), "NUM_THREADS": "1"}


def errors(heard: list[str]) -> float:
    """The share of words that are wrong."""
    return float(jiwer.wer(" ".join(SAID), " ".join(" ".join(heard).split())))


def started(start_pod: StartPod, **flags: Any) -> tuple[Pod, Pod]:
    predictor = start_pod("predictors.kaldi_asr", "speech", MODEL)
    address = predictor.url.removeprefix("http://")
    transformer = start_pod("transformers_pre.audio", "speech", predictor_host=address, **flags)
    return predictor.until_ready(STARTING_SECONDS), transformer.until_ready(STARTING_SECONDS)


def decoded(transformer: Pod) -> float:
    return transformer.metric("sonotome_windows_total", outcome="decoded")


def taken(transformer: Pod) -> float:
    return transformer.metric("sonotome_audio_seconds_total")


async def test_a_predictor_that_dies_with_a_sentence_is_asked_again(start_pod: StartPod) -> None:
    predictor, transformer = started(start_pod, stream_partial_seconds=0)
    config = {"sample_rate": RATE, "wait_null_answers": False}
    async with connected(f"ws://127.0.0.1:{transformer.http_port}/ws", config) as socket:
        reading = asyncio.create_task(answers(socket))
        await send(socket, pcm16(joined(SOUNDS[:2])))
        await asyncio.to_thread(transformer.until, lambda: decoded(transformer) == 2, "two sentences")
        predictor.send(signal.SIGSTOP)  # it takes the next sentence, and has no time to answer
        await send(socket, pcm16(joined(SOUNDS[2:4])))
        await asyncio.to_thread(transformer.until, lambda: decoded(transformer) == 4, "two more")
        predictor.send(signal.SIGKILL)
        predictor.wait()
        again = start_pod("predictors.kaldi_asr", "speech", MODEL, http_port=predictor.http_port)
        await send(socket, pcm16(joined(SOUNDS[4:])))
        await socket.send(EOF)
        *finals, last = await reading
    assert again.metric("sonotome_batch_size_count") > 0
    assert [final["error"] for final in [*finals, last]] == [None] * (len(SAID) + 1)
    assert errors([final["data"]["text"] for final in finals]) <= MOST_ERRORS


async def test_a_transformer_that_stops_says_so_in_time(start_pod: StartPod) -> None:
    _, transformer = started(start_pod)
    config = {"sample_rate": RATE, "wait_null_answers": False}
    async with connected(f"ws://127.0.0.1:{transformer.http_port}/ws", config) as socket:
        reading = asyncio.create_task(answers(socket))
        await send(socket, pcm16(SPEECH[: -RATE // 2]))
        # What the pod has taken in is told to the end; what still was on its way, the client sends to the next one.
        await asyncio.to_thread(
            transformer.until, lambda: taken(transformer) >= len(SPEECH) / RATE - 0.501, "all of it"
        )
        transformer.send(signal.SIGTERM)
        *finals, last = await reading
        assert (socket.close_code, "connect again" in socket.close_reason) == (1012, True)
    assert last["last_message"]
    assert errors([final["data"]["text"] for final in finals]) <= MOST_ERRORS
    assert await asyncio.to_thread(transformer.wait) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_example_client_goes_on_with_the_next_pod(
    start_pod: StartPod, tmp_path: Path, number: signal.Signals
) -> None:
    predictor, transformer = started(start_pod)
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm16(SPEECH))
    url = f"ws://127.0.0.1:{transformer.http_port}/vosk"
    client = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "examples/ws_client.py", "--live", "--url", url, tmp_path / "speech.wav",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    first = await client.stdout.readline()
    transformer.send(number)  # somewhere in the next sentence
    await asyncio.to_thread(transformer.wait)
    address = predictor.url.removeprefix("http://")
    start_pod("transformers_pre.audio", "speech", predictor_host=address, http_port=transformer.http_port)
    rest, complaints = await asyncio.wait_for(client.communicate(), 120)
    assert (client.returncode, complaints) == (0, b"")
    assert errors((first + rest).decode().splitlines()) <= MOST_ERRORS
