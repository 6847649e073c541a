"""OpenAI's routes, called by the stock `openai` client: what they answer.

Behaviours restated from the test suites of speaches and vLLM are marked with their origin.
"""

import asyncio
from typing import Any

import openai
import openai.types.audio as openai_types
import pytest
import srt
import webvtt
from pydantic import TypeAdapter

from tests.unit.audio.routes.loopback import RECORDING, LoopbackPod, strictly

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_json(pod: LoopbackPod) -> None:
    answer = await pod.transcribe()
    read = strictly(openai_types.Transcription, answer)
    assert read.text == "Hello there. Grüße! 你好 --> 5 < 6."
    assert read.usage.seconds == 6.04
    assert pod.fake.heard == RECORDING
    assert await pod.leftovers() == 0


async def test_the_synchronous_client(pod: LoopbackPod) -> None:
    with openai.OpenAI(api_key="key", base_url=f"{pod.address}/v1", max_retries=0, timeout=60) as client:
        create = client.audio.transcriptions.create
        answer = await asyncio.to_thread(create, file=("speech", RECORDING), model="")
    assert strictly(openai_types.Transcription, answer).text == "Hello there. Grüße! 你好 --> 5 < 6."


async def test_text_is_the_body_itself(pod: LoopbackPod) -> None:
    assert await pod.transcribe(response_format="text") == "Hello there. Grüße! 你好 --> 5 < 6."
    response = await pod.post(response_format="text")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


async def test_verbose_json(pod: LoopbackPod) -> None:
    answer = await pod.transcribe(response_format="verbose_json")
    read = strictly(openai_types.TranscriptionVerbose, answer)
    assert (read.text, read.language, read.duration) == ((await pod.transcribe()).text, "german", 6.04)
    assert [part.text for part in read.segments] == pod.fake.texts
    assert [part.id for part in read.segments] == [0, 1, 2]
    assert read.segments[-1].end <= read.duration
    assert read.words is None
    assert answer.model_extra == {"task": "transcribe"}


@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"], []])
async def test_granularities(pod: LoopbackPod, granularities: list[Any]) -> None:
    # As speaches has it in tests/openai_timestamp_granularities_test.py, its captures of OpenAI's own API
    read = strictly(
        openai_types.TranscriptionVerbose,
        await pod.transcribe(response_format="verbose_json", timestamp_granularities=granularities),
    )
    assert (read.words is not None) == ("word" in granularities)
    assert (read.segments is None) == (granularities == ["word"])
    assert pod.fake.requests[0].words == ("word" in granularities)


@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"]])
async def test_granularities_with_json(pod: LoopbackPod, granularities: list[Any]) -> None:
    # The same file; times of words where nothing shows them are a bad request
    if "word" in granularities:
        with pytest.raises(openai.BadRequestError) as caught:
            await pod.transcribe(response_format="json", timestamp_granularities=granularities)
        assert caught.value.param == "timestamp_granularities[]"
    else:
        assert (await pod.transcribe(response_format="json", timestamp_granularities=granularities)).text


async def test_srt(pod: LoopbackPod) -> None:
    # As in speaches, sse_test.
    read = list(srt.parse(await pod.transcribe(response_format="srt")))
    assert [cue.content for cue in read] == ["Hello there.", "Grüße!", "你好 -> 5 < 6."]
    assert (await pod.post(response_format="srt")).headers["content-type"] == "text/plain; charset=utf-8"


async def test_vtt(pod: LoopbackPod) -> None:
    # As in speaches, sse_test.
    read = webvtt.from_string(await pod.transcribe(response_format="vtt"))
    assert [cue.raw_text for cue in read.captions] == ["Hello there.", "Grüße!", "你好 --&gt; 5 &lt; 6."]
    assert (await pod.post(response_format="vtt")).headers["content-type"] == "text/vtt; charset=utf-8"


async def test_a_recording_without_speech(pod: LoopbackPod) -> None:
    pod.fake.texts = []
    assert (await pod.transcribe()).text == ""
    assert await pod.transcribe(response_format="text") == ""
    assert await pod.transcribe(response_format="srt") == ""
    assert webvtt.from_string(await pod.transcribe(response_format="vtt")).captions == []
    assert (
        strictly(openai_types.TranscriptionVerbose, await pod.transcribe(response_format="verbose_json")).segments == []
    )
    assert [event.text async for event in await pod.transcribe(stream=True)] == [""]


@pytest.mark.parametrize("path", ["/v1/audio/translations", "/openai/v1/audio/translations"])
async def test_translation(pod: LoopbackPod, path: str) -> None:
    response = await pod.post(path, response_format="verbose_json")
    read = TypeAdapter(openai_types.TranslationVerbose).validate_python(response.json(), strict=True)
    assert read.language == "english"
    assert pod.fake.requests[0].task == "translate"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client deprecates the method, not the route
async def test_translation_by_the_stock_client(pod: LoopbackPod) -> None:
    # As vLLM has it in tests/entrypoints/speech_to_text/translation/test_translation_validation.py
    answer = await pod.openai.audio.translations.create(file=("a.ogg", RECORDING), model="whisper-1", prompt="Hi.")
    assert strictly(openai_types.Translation, answer).text == "Hello there. Grüße! 你好 --> 5 < 6."
    assert pod.fake.requests[0].prompt == "Hi."


async def test_every_field_of_the_stock_client_arrives(pod: LoopbackPod) -> None:
    await pod.transcribe(
        language="ru", prompt="Кто там?", temperature=0.5, chunking_strategy="auto",
        response_format="verbose_json", timestamp_granularities=["word"],
        extra_body={"hotwords": "Сонотом", "beam_size": 4, "best_of": 3, "seed": 42, "vllm_xargs": "{}"},
    )  # fmt: skip
    (request,) = pod.fake.requests
    assert (request.language, request.prompt, request.temperature, request.words) == ("ru", "Кто там?", 0.5, True)
    assert (request.hotwords, request.beam_size, request.best_of) == ("Сонотом", 4, 3)
    assert (request.per_window_language, request.channels, request.task) == (False, "mix", "transcribe")


async def test_headers_reach_the_transcriber(pod: LoopbackPod) -> None:
    await pod.transcribe(extra_headers={"x-request-timeout-seconds": "7"})
    assert pod.fake.headers["x-request-timeout-seconds"] == "7"


@pytest.mark.parametrize("model", ["", "whisper-1", "speech", "openai/whisper-large-v3", "gpt-4o-transcribe"])
async def test_any_model_name_is_served(pod: LoopbackPod, model: str) -> None:
    answer = await pod.openai.audio.transcriptions.create(file=("a.wav", RECORDING), model=model)
    assert answer.text


async def test_requests_at_once_do_not_mix(pod: LoopbackPod) -> None:
    # As vLLM has it in test_basic_audio_batched
    answers = await asyncio.gather(
        *(pod.transcribe(language=code, response_format="verbose_json") for code in ("ru", "es", "it"))
    )
    assert [answer.language for answer in answers] == ["russian", "spanish", "italian"]
    assert await pod.leftovers() == 0


async def test_models_as_openai_lists_them(pod: LoopbackPod) -> None:
    listed = [model async for model in pod.openai.models.list()]
    assert [strictly(openai.types.Model, model).id for model in listed] == ["speech"]
    assert strictly(openai.types.Model, await pod.openai.models.retrieve("speech")).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        await pod.openai.models.retrieve("whisper-1")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.body["message"] == "there is no such model here, the one served is 'speech'"


async def test_models_as_v1_lists_them(pod: LoopbackPod) -> None:
    assert (await pod.http.get("/v1/models")).json()["models"] == ["speech"]
    model = (await pod.http.get("/v1/models/speech")).json()
    assert (model["name"], model["ready"]) == ("speech", True)
    pod.ready = False
    unready = await pod.http.get("/v1/models/speech")
    assert (unready.status_code, unready.headers["retry-after"]) == (503, "1")
    assert unready.json()["error"]["code"] == "model_not_ready"


async def test_the_prefix_of_kserve(pod: LoopbackPod) -> None:
    client = pod.openai.with_options(base_url=f"{pod.address}/openai/v1")
    assert (await client.audio.transcriptions.create(file=("a.wav", RECORDING), model="speech")).text
    assert [model.id async for model in client.models.list()] == ["speech"]
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("other")
    assert caught.value.code == "model_not_found"
