"""WS `/vosk`: vosk-server's protocol, the engine apart."""

import asyncio
import json

import pytest

from tests.streams import EOF, RATE, answers, connected, pcm16
from tests.synthesis import speak
from tests.unit.audio.live import SENTENCES, SPEECH, LivePod, heard


async def test_every_message_has_one_answer(pod: LivePod) -> None:
    data = pcm16(SPEECH)
    finals, partials = [], []
    async with connected(pod.url("/vosk"), {"sample_rate": 16000.0, "words": 1}) as socket:
        for start in range(0, len(data), 6400):
            await socket.send(data[start : start + 6400])
            answer = json.loads(await asyncio.wait_for(socket.recv(), 10))
            (partials if "partial" in answer else finals).append(answer)
            await asyncio.sleep(0.01)
        await socket.send(EOF)
        rest = await answers(socket)
        assert socket.close_code == 1000
    assert len(rest) == 1
    said = [word for each in [*finals, *rest] for word in each.get("result", [])]
    reference = [word for each in await heard(pod, SPEECH) for word in each["data"]["result"]]
    assert said == reference
    assert any(each["partial"] for each in partials)


async def test_reset_gives_a_result_and_goes_on(pod: LivePod) -> None:
    async with connected(pod.url("/vosk"), {"sample_rate": RATE}) as socket:
        first = speak(SENTENCES[0])
        await socket.send(pcm16(first))
        assert "partial" in json.loads(await socket.recv())
        await socket.send('{"reset" : 1}')
        assert json.loads(await socket.recv())["text"]
        await socket.send('{"config": {"max_alternatives": 1, "words": true}}')
        await socket.send(pcm16(speak(SENTENCES[1])))
        assert "partial" in json.loads(await socket.recv())
        await socket.send(EOF)
        (last,) = await answers(socket)
    (alternative,) = last["alternatives"]
    assert alternative["text"] == " ".join(word["word"] for word in alternative["result"])
    assert alternative["confidence"] == 1.0
    assert alternative["result"][0]["start"] >= round(len(first) / RATE, 3)  # as in vosk-server, the clock goes on


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("nonsense", "JSON object"),
        ('{"what": 1}', '{"reset": 1}'),
        ('{"config": {"model": "/etc/passwd"}}', "one model"),
        ('{"config": {"sample_rate": -5}}', "from 4000"),
        ('{"config": {"phrase_list": "yes no"}}', "list of texts"),
    ],
)
async def test_vosk_mistakes_are_told(pod: LivePod, message: str, says: str) -> None:
    async with connected(pod.url("/vosk")) as socket:
        await socket.send(message)
        (answer,) = await answers(socket)
        assert (answer["text"], socket.close_code) == ("", 1007)
        assert says in answer["error"]


async def test_a_list_of_phrases_is_never_cut(pod: LivePod) -> None:
    async with connected(pod.url("/vosk")) as socket:
        await socket.send(json.dumps({"config": {"phrase_list": ["город", "дорога"] * 300}}))
        (answer,) = await answers(socket)
    assert "4000 are accepted" in answer["error"]
    assert socket.close_code == 1009
