"""The audio transformer's settings: what fits together, where limits come from, and what a client is told of them."""

import importlib
import sys
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from serving import heap
from serving.contracts.asr import AsrOptions
from serving.errors import InvalidInput
from serving.settings import PodSettings
from serving.uploads.settings import UploadSettings
from transformers_pre.audio import pod
from transformers_pre.audio.forms import ProtocolForm
from transformers_pre.audio.recording_settings import RecordingSettings, pipeline
from transformers_pre.audio.routes import recording_limits
from transformers_pre.audio.routes.limits import Limits
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.split import SplitLimits


def test_a_request_with_most_recordings_finds_places_for_them() -> None:
    assert AudioSettings(max_instances=10, decode_workers=2, decode_queue=8).max_instances == 10
    with pytest.raises(ValidationError, match="MAX_INSTANCES is 11, DECODE_WORKERS and DECODE_QUEUE together take 10"):
        AudioSettings(max_instances=11, decode_workers=2, decode_queue=8)


def refusal(*flags: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        AudioSettings.from_command_line(flags)
    return str(stopped.value)


def test_a_recording_that_is_accepted_fits_into_a_body() -> None:
    fits = AudioSettings(max_upload_bytes=900, max_form_overhead_bytes=100, max_body_bytes=1000)
    assert fits.max_upload_bytes == 900
    assert refusal("--max_upload_bytes=901", "--max_form_overhead_bytes=100", "--max_body_bytes=1000") == (
        "MAX_UPLOAD_BYTES is 901 and MAX_FORM_OVERHEAD_BYTES is 100, such a form does not fit into MAX_BODY_BYTES, "
        "which is 1000"
    )


def test_the_largest_recording_fits_into_v1s_json_by_default() -> None:
    settings = AudioSettings()
    assert settings.max_upload_bytes * 4 / 3 + 1000 < settings.max_json_bytes


FRACTIONS = [name for name, field in AudioSettings.model_fields.items() if field.annotation is float]


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("name", FRACTIONS)
def test_no_setting_is_infinite(name: str, value: str) -> None:
    assert refusal(f"--{name}={value}") == f"{name.upper()}: Input should be a finite number (got {value!r})"


@pytest.mark.parametrize(
    ("argv", "environment", "chosen"),
    [
        ([], {}, ""),
        ([], {"PIPELINE": "caption"}, "caption"),
        (["--vad_threshold=0.4", "--pipeline", "caption"], {"PIPELINE": "speech"}, "caption"),
        (["--pipeline=speech"], {"PIPELINE": "caption"}, "speech"),
    ],
)
def test_the_pipeline_is_known_before_its_settings(argv: list[str], environment: dict[str, str], chosen: str) -> None:
    assert pipeline(argv, environment) == chosen


def test_every_pipeline_has_a_pod_of_its_own_with_settings_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(pod.PODS) == set(get_args(RecordingSettings.model_fields["pipeline"].annotation))
    for name, module in pod.PODS.items():
        package = importlib.import_module(f"{module.rpartition('.')[0]}.settings").__package__
        assert package == ("transformers_pre.audio" if name == "speech" else f"transformers_pre.audio.{name}")
        started: list[str] = []
        with monkeypatch.context() as patched:
            patched.setattr(f"{module}.main", lambda started=started, name=name: started.append(name))
            patched.setattr(heap, "keep_buffers_apart", lambda: None)
            patched.setattr(sys, "argv", ["pod", f"--pipeline={name}"])
            pod.main()
        assert started == [name]


def test_an_unknown_pipeline_is_refused() -> None:
    assert refusal("--pipeline=sing").startswith("PIPELINE: Input should be 'speech' or 'caption'")


def test_windows_are_cut_as_the_splitter_would_by_itself() -> None:
    assert AudioSettings().split_limits() == SplitLimits()


NO_SETTINGS = ("max_text_characters", "max_beam_size", "max_best_of", "min_sample_rate", "max_sample_rate")


async def told(settings: AudioSettings) -> dict[str, float | None]:
    app = FastAPI()
    app.include_router(recording_limits.router(Limits.model_validate(settings)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pod") as client:
        found: dict[str, float | None] = (await client.get("/v1/limits")).json()
    return found


async def test_limits_are_told_under_the_names_of_their_settings() -> None:
    settings = AudioSettings(max_form_fields=7, url_max_redirects=2, decode_queue=99, whisper_segment_duration_sec=20)
    found = await told(settings)
    assert found.pop("window_seconds") == 20
    for name in NO_SETTINGS:
        del found[name]
    for name in ("stream_max_seconds", "stream_session_seconds"):  # 0 is no limit
        assert found.pop(name) is None
    assert found == {name: getattr(settings, name) for name in found}
    assert {"max_form_fields", "url_max_redirects", "decode_queue", "max_instances", "max_upload_bytes"} <= set(found)


async def test_every_setting_that_is_a_limit_of_the_audio_transformer_is_told() -> None:
    classes = (AudioSettings, RecordingSettings, UploadSettings, PodSettings)
    own = [name for cls in classes for name in cls.__annotations__]
    prefixes = ("max_", "decode_", "url_", "stream_max_", "stream_decoders")
    limiting = {name for name in own if name.startswith(prefixes)} - {"url_allow"}
    assert limiting <= set(await told(AudioSettings()))


async def test_the_limits_of_fields_that_are_told_are_those_that_hold() -> None:
    found = await told(AudioSettings())
    text, beams, candidates = (int(found[name] or 0) for name in NO_SETTINGS[:3])
    at_most: dict[str, Any] = {"prompt": "x" * text, "hotwords": "x" * text, "beam_size": beams, "best_of": candidates}
    form = ProtocolForm.from_values(at_most)
    assert {name: getattr(form, name) for name in at_most} == at_most
    assert AsrOptions(**at_most).beam_size == beams
    for name, value in at_most.items():
        with pytest.raises(InvalidInput, match=name):
            ProtocolForm.from_values({name: value + ("x" if isinstance(value, str) else 1)})
    assert (found["min_sample_rate"], found["max_sample_rate"]) == (4_000, 192_000)


async def test_no_limit_is_null() -> None:
    assert (await told(AudioSettings(max_audio_seconds=0)))["max_audio_seconds"] is None
