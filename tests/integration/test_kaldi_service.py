"""The streaming service as two real pods, real engines on the small Russian models: every route tells what was said."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import pytest

from tests.bench.speech import wav
from tests.integration.clips import stereo
from tests.russian import joined, sentences
from tests.services import Service, kaldi
from tests.streams import RATE, chunk, pcm16, realtime, streamed, vosk_answers

SAID, SOUNDS = sentences(12, seed=2)
SPEECH = joined(SOUNDS)
MOST_ERRORS = 0.05  # of words, as for the models alone


@pytest.fixture(scope="module", params=["gigaam", "vosk5"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with kaldi(request.param, url_allow="127.0.0.1") as running:
        yield running


def errors(said: Iterable[str], heard: Iterable[str]) -> float:
    """The share of words that are wrong."""
    return float(jiwer.wer(" ".join(said), " ".join(" ".join(heard).split())))


def timed(words: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Words and their times. Confidences differ in their seventh digit with what else was in the batch."""
    return [(word["word"], word["start"], word["end"]) for word in words]


async def live(service: Service, samples: np.ndarray, size: int = 3200, **config: Any) -> list[dict[str, Any]]:
    return await streamed(f"{service.live_url}/ws", pcm16(samples), size, **config)


def test_openais_route(service: Service) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        answer = client.audio.transcriptions.create(
            file=wav(SPEECH), model="m", response_format="verbose_json", timestamp_granularities=["segment", "word"]
        )
    assert errors(SAID, [answer.text]) <= MOST_ERRORS
    assert answer.language == "russian"
    assert answer.words is not None
    assert [word.word.strip() for word in answer.words] == answer.text.split()
    starts = [word.start for word in answer.words]
    assert starts == sorted(starts)
    assert answer.words[-1].end == pytest.approx(len(SPEECH) / RATE - 0.8, abs=0.2)


def test_the_whisper_services_route(service: Service) -> None:
    answer = httpx.post(f"{service.url}/transcribe", files={"file": wav(SPEECH)}, timeout=120, trust_env=False).json()
    assert (answer["success"], answer["language"]) == (True, "ru")
    assert errors(SAID, [answer["text"]]) <= MOST_ERRORS


async def test_ws_tells_each_sentence_as_it_ends(service: Service) -> None:
    *finals, last = await live(service, SPEECH)
    assert [each["error"] for each in finals] == [None] * len(SAID)
    assert errors(SAID, [each["data"]["text"] for each in finals]) <= MOST_ERRORS
    assert (last["silence"], last["last_message"]) == (True, True)
    end = 0.0
    for sound, final in zip(SOUNDS, finals, strict=True):  # each in its own sentence's time
        words = final["data"]["result"]
        assert words[0]["start"] == pytest.approx(end, abs=0.35)
        end += len(sound) / RATE
        assert words[-1]["end"] == pytest.approx(end, abs=0.25)
        end += 0.8


@pytest.mark.parametrize(("size", "sentences_"), [(81, 1), (641, 4), (60 * RATE * 2, 12)])
async def test_packets_make_no_difference(service: Service, size: int, sentences_: int) -> None:
    samples = joined(SOUNDS[:sentences_])
    one, other = await live(service, samples, size), await live(service, samples, 6400)
    assert [timed(each["data"]["result"]) for each in one] == [timed(each["data"]["result"]) for each in other]


async def test_ws_without_a_pause_is_cut_and_joined(service: Service) -> None:
    """Half a minute in one breath: cut inside the speech, and no word lost or doubled for it."""
    samples = joined(SOUNDS, pause_seconds=0.0)
    finals = await live(service, samples)
    assert service.transformer.metric("sonotome_forced_cuts_total") > 0
    assert errors(SAID, [each["data"]["text"] for each in finals]) <= 2 * MOST_ERRORS


async def test_vosk_servers_protocol(service: Service) -> None:
    found = await vosk_answers(f"{service.live_url}/vosk", pcm16(SPEECH), words=True)
    finals = [each for each in found if "partial" not in each]
    assert errors(SAID, [each["text"] for each in finals]) <= MOST_ERRORS
    expected = [word for each in await live(service, SPEECH) for word in timed(each["data"]["result"])]
    assert [word for each in finals for word in timed(each.get("result", []))] == expected


async def test_openais_realtime_protocol(service: Service) -> None:
    async with realtime(service.url) as connection, asyncio.timeout(120):
        await connection.recv()
        audio: Any = {"input": {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {"language": "ru"}}}
        await connection.session.update(session={"type": "transcription", "audio": audio})
        for start in range(0, len(SPEECH), RATE // 5):
            await connection.input_audio_buffer.append(audio=chunk(SPEECH[start : start + RATE // 5]))
        texts: list[str] = []
        while len(texts) < len(SAID):
            event = await connection.recv()
            assert event.type != "error", event
            if event.type == "conversation.item.input_audio_transcription.completed":
                texts.append(event.transcript)
    assert errors(SAID, texts) <= MOST_ERRORS


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A link to a recording: half of the sentences on the left, the others on the right."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "both.wav").write_bytes(stereo(joined(SOUNDS[:6]), joined(SOUNDS[6:])))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/both.wav"
        finally:
            server.shutdown()
            thread.join()


def test_a_recording_behind_a_link(service: Service, link: str) -> None:
    url = f"{service.url}/post_one_step_req"
    answer = httpx.post(url, json={"AudioFileUrl": link, "do_dialogue": True}, timeout=120, trust_env=False)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["success"], body["error_description"]) == (True, "")
    for name, said in (("channel_1", SAID[:6]), ("channel_2", SAID[6:])):
        assert errors(said, [each["data"]["text"] for each in body["raw_data"][name]]) <= 2 * MOST_ERRORS
    assert errors(SAID, body["sentenced_data"]["full_text_only"]) <= MOST_ERRORS
    missing = httpx.post(url, json={"AudioFileUrl": f"{link}.gone"}, timeout=120, trust_env=False)
    assert missing.status_code >= 400
    assert (missing.json()["success"], "404" in missing.json()["error_description"]) == (False, True)


def test_is_alive(service: Service) -> None:
    answer = httpx.get(f"{service.url}/is_alive", timeout=10, trust_env=False)
    assert answer.json() == {"error": False, "error_description": None, "data": "is running"}


@pytest.mark.parametrize(
    ("fields", "says"), [({"language": "en"}, "knows the language 'ru' only"), ({"hotwords": "да"}, "hotwords")]
)
def test_what_the_model_cannot_do_is_said_on_every_route(service: Service, fields: dict[str, str], says: str) -> None:
    answer = service.transcribe(wav(SOUNDS[0]), **fields)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    if "language" in fields:
        first, *_ = asyncio.run(live(service, joined(SOUNDS[:1]), **fields))
        assert says in first["error"]
