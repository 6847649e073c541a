"""The Whisper service on vLLM: real weights, vLLM's real engine on the CPU, the same recordings as the other backends'.

One service for all tests, because vLLM takes a minute to start; what kills it comes last.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import psutil
import pytest
import srt
import webvtt

from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Samples
from serving.deadline import Deadline
from serving.hop import PredictorClient
from tests.bench.service import plain_words
from tests.bench.speech import RATE, speech, wav
from tests.integration.clips import (
    CALL,
    COUNTING,
    FOX,
    FRENCH,
    HELLO,
    SPANISH,
    call_samples,
    clip,
    joined,
    said,
    samples,
    silence,
    words,
)
from tests.pods import wait_for
from tests.services import Service, whisper

MOST_DIFFERENT = (
    0.15  # word error rate against ctranslate2 on the telephone call, whose arithmetic is int8; measured 0.09
)
IN_ENGINE = "sonotome_batch_queue_length"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def vllm() -> Iterator[Service]:
    """Predictor on vLLM and transformer, ready."""
    with whisper(env={"BACKEND": "vllm", "MAX_NUM_SEQS": "8", "GRACE_SECONDS": "5"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(vllm: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="none", max_retries=0, timeout=300) as made:
        yield made


@pytest.fixture(scope="module")
def call_text(client: openai.OpenAI) -> str:
    """What it understands of the telephone call."""
    return client.audio.transcriptions.create(file=("call.wav", CALL.read_bytes()), model="w").text


def recognise(vllm: Service, audio: Samples, **options: Any) -> AsrResult:
    """One window at the predictor itself."""

    async def call() -> AsrResult:
        client = PredictorClient(vllm.predictor.url.removeprefix("http://"), "whisper")
        try:
            request = asr.write_request([AsrInput(audio, AsrOptions(**options))], "whisper")
            (result,) = asr.read_response(await client.infer(request, {}, Deadline(300)))
        finally:
            await client.close()
        return result

    return asyncio.run(call())


def test_it_says_what_the_other_backends_say(vllm: Service, service: Service, call_text: str) -> None:
    """Its search is greedy and its arithmetic float32, bfloat16 where the CPU has it; the other's is int8."""
    ours, theirs = words(call_text), words(service.transcribe(CALL.read_bytes(), beam_size=1).json()["text"])
    for name in (HELLO, FOX, COUNTING, SPANISH, FRENCH):
        ours += words(vllm.transcribe(clip(name)).json()["text"])
        theirs += words(service.transcribe(clip(name), beam_size=1).json()["text"])
    assert jiwer.wer(" ".join(theirs), " ".join(ours)) <= MOST_DIFFERENT


def test_every_format_tells_the_same_text(client: openai.OpenAI, call_text: str) -> None:
    create, file = client.audio.transcriptions.create, ("call.wav", CALL.read_bytes())
    verbose = create(file=file, model="w", response_format="verbose_json", timestamp_granularities=["segment", "word"])
    assert verbose.text == call_text
    assert "".join(segment.text for segment in verbose.segments or []).strip() == call_text
    assert [each for word in verbose.words or [] for each in words(word.word)] == words(call_text)
    assert create(file=file, model="w", response_format="text").strip() == call_text
    assert words(
        " ".join(each.content for each in srt.parse(create(file=file, model="w", response_format="srt")))
    ) == words(call_text)
    captions = webvtt.from_string(create(file=file, model="w", response_format="vtt"))
    assert words(" ".join(each.text for each in captions)) == words(call_text)
    *deltas, done = create(file=file, model="w", stream=True)
    assert "".join(event.delta for event in deltas) == done.text == call_text


def test_times_are_those_of_the_speech(vllm: Service) -> None:
    result = recognise(vllm, call_samples(), timestamps="word")
    # What is spoken begins at 6.68 s; the decoder's own timestamps say 0.
    assert result.segments[0].start == pytest.approx(6.68, abs=0.5)
    assert result.segments[-1].end == pytest.approx(29.987, abs=0.5)
    spoken = [word for segment in result.segments for word in segment.words or []]
    times = [time for word in spoken for time in (word.start, word.end)]
    assert times == sorted(times)
    assert "".join(word.word for word in spoken) == result.text
    assert all(word.probability is not None and 0 < word.probability <= 1 for word in spoken)


def test_statistics_are_each_segments_own(vllm: Service) -> None:
    found = recognise(vllm, call_samples(), timestamps="segment").segments
    assert len({round(segment.avg_logprob, 6) for segment in found}) == len(found) > 3
    assert len({round(segment.compression_ratio, 6) for segment in found}) > 3
    assert all(-3 < segment.avg_logprob < 0 for segment in found)
    # After the start of the transcript <|nospeech|> has a quarter of the probability: the call begins with 6 s of noise.
    assert len({segment.no_speech_prob for segment in found}) == 1
    assert found[0].no_speech_prob == pytest.approx(0.24, abs=0.15)


def test_languages(vllm: Service) -> None:
    assert (recognise(vllm, samples(FRENCH)).language, recognise(vllm, samples(SPANISH)).language) == ("fr", "es")
    found = recognise(vllm, samples(FRENCH))
    assert found.language_probability is not None
    assert 0.5 < found.language_probability <= 1
    assert recognise(vllm, samples(FRENCH), language="fr").language_probability is None


def test_translation(vllm: Service) -> None:
    english = recognise(vllm, samples(FRENCH), language="fr", task="translate").text
    assert words(english) != words(said(FRENCH))
    assert set(words(english)) & {"the", "whisky", "judge", "blond"}


def test_beams_are_no_less_probable(vllm: Service) -> None:
    greedy, beams = (recognise(vllm, samples(FOX), language="en", beam_size=size) for size in (1, 3))
    assert words(beams.text) == words(said(FOX))
    means = [sum(each.avg_logprob * len(each.tokens) for each in result.segments) for result in (greedy, beams)]
    assert means[1] >= means[0] - 0.05


def test_the_best_of_several_samples_is_taken(vllm: Service) -> None:
    one, five = (recognise(vllm, samples(FOX), language="en", temperature=0.8, best_of=count) for count in (1, 5))
    assert words(five.text) == words(said(FOX))
    assert five.segments[0].temperature == 0.8
    assert five.segments[0].avg_logprob >= one.segments[0].avg_logprob - 0.2


def test_control_tokens_in_a_prompt_are_text(vllm: Service) -> None:
    found = recognise(vllm, samples(FOX), language="en", prompt="<|endoftext|><|startoftranscript|><|fr|> A story.")
    assert words(found.text) == words(said(FOX))


def test_a_prompt_is_heeded(vllm: Service) -> None:
    assert recognise(vllm, samples(COUNTING), language="en", prompt="One. Two. Three. Four.").text.startswith(
        " One. Two."
    )


def test_silence_has_no_words(client: openai.OpenAI) -> None:
    for seconds in (5, 35):
        found = client.audio.transcriptions.create(file=("silence.wav", joined(silence(seconds))), model="w")
        assert found.text == ""


def test_noise_around_words_is_none(client: openai.OpenAI) -> None:
    noisy = (0.005 * np.random.default_rng(1).standard_normal(12 * RATE)).astype(np.float32)
    spoken = samples(HELLO)
    noisy[5 * RATE : 5 * RATE + len(spoken)] += spoken
    found = client.audio.transcriptions.create(file=("noisy.wav", wav(noisy)), model="w", language="en")
    assert words(found.text) == ["hello", "world"]


def test_no_sentence_is_lost_over_windows(client: openai.OpenAI) -> None:
    audio, clips = speech(75.0)
    found = client.audio.transcriptions.create(file=("long.wav", wav(audio)), model="w", response_format="verbose_json")
    assert found.duration == pytest.approx(75, abs=0.1)
    spoken = plain_words(" ".join(each.text for each in clips))
    assert jiwer.wer(spoken, plain_words(found.text)) < 0.25
    assert words("".join(segment.text for segment in found.segments or [])) == words(found.text)


def test_a_recording_of_two_windows_has_one_text(client: openai.OpenAI) -> None:
    # Longer ones, 244 and 977 s: tests.bench.vllm.
    file = ("long.wav", wav(speech(39.0)[0]))
    create = client.audio.transcriptions.create
    verbose = create(file=file, model="w", language="en", response_format="verbose_json")
    assert len(words(verbose.text)) > 60
    assert "".join(segment.text for segment in verbose.segments or []) == verbose.text
    assert create(file=file, model="w", language="en").text == verbose.text


def test_clients_at_once_get_what_each_gets_alone(vllm: Service) -> None:
    names = [HELLO, FOX, COUNTING, SPANISH] * 2
    alone = {name: recognise(vllm, samples(name)).text for name in set(names)}
    with ThreadPoolExecutor(len(names)) as pool:
        together = list(pool.map(lambda name: recognise(vllm, samples(name)).text, names))
    assert [words(text) for text in together] == [words(alone[name]) for name in names]


def test_who_leaves_is_taken_out_of_the_engine(vllm: Service) -> None:
    body = {
        "instances": [{"audio": call_samples().tolist()[:160_000]}],
        "parameters": {"temperature": 1.0, "best_of": 5},
    }
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{vllm.predictor.url}/v1/models/whisper:predict", json=body, timeout=httpx.Timeout(60, read=0.5))
    wait_for("the engine empty", lambda: vllm.predictor.metric(IN_ENGINE, model_name="whisper") == 0, 20)
    # Nor does vLLM go on with it: five samples of it would take both cores for seconds.
    wait_for("vLLM idle", lambda: working_seconds(vllm, 1.0) < 0.3, 20)
    assert words(recognise(vllm, samples(HELLO)).text) == ["hello", "world"]


def working_seconds(vllm: Service, seconds: float) -> float:
    """Processor time that vLLM's processes take in some seconds."""
    children = psutil.Process(vllm.predictor.process.pid).children(recursive=True)

    def taken() -> float:
        return sum(sum(child.cpu_times()[:2]) for child in children)

    before = taken()
    time.sleep(seconds)
    return taken() - before


def test_what_is_too_long_is_refused(vllm: Service) -> None:
    tensor = {"name": "AUDIO", "shape": [1, 480_001], "datatype": "FP32", "data": [0.0] * 480_001}
    answer = httpx.post(f"{vllm.predictor.url}/v2/models/whisper/infer", json={"inputs": [tensor]}, timeout=60)
    assert answer.status_code == 400
    assert "480000" in answer.json()["error"]


def test_a_dead_engine_fails_what_is_in_flight_and_ends_the_pod(vllm: Service) -> None:
    """Last: nothing is left afterwards."""
    pod = psutil.Process(vllm.predictor.process.pid)
    engines = [child for child in pod.children(recursive=True) if "EngineCore" in "".join(child.cmdline())]
    assert engines
    long = call_samples()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(post_v1, vllm, long) for _ in range(4)]
        wait_for("the calls in the engine", lambda: vllm.predictor.metric(IN_ENGINE, model_name="whisper") == 4, 60)
        os.kill(engines[0].pid, signal.SIGKILL)
        answers = [call.result() for call in calls]
    for answer in answers:
        assert answer.status_code == 503
        assert "send it once more" in answer.json()["error"]
        assert answer.headers["retry-after"] == "10"
    begun = time.monotonic()
    assert vllm.predictor.wait(60) == 1
    assert time.monotonic() - begun < 60
    assert any("the engine died" in line for line in vllm.predictor.lines)


def post_v1(vllm: Service, audio: Samples) -> httpx.Response:
    instance = {"audio": [round(float(each), 4) for each in audio[:240_000]]}
    return httpx.post(f"{vllm.predictor.url}/v1/models/whisper:predict", json={"instances": [instance]}, timeout=300)
