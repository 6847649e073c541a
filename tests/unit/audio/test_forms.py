"""What a form's fields accept, how they go together, and what the transcriber is asked in the end."""

import io
from typing import Any

import pytest

from serving.contracts.asr import AsrOptions
from serving.errors import InvalidInput
from transformers_pre.audio.forms import OpenAIForm, ProtocolForm, SpeechForm


def parsed(form: type[SpeechForm] = OpenAIForm, **fields: str | list[str]) -> Any:
    return form.parse({name: [value] if isinstance(value, str) else value for name, value in fields.items()})


def asked(form: SpeechForm, task: Any = "transcribe") -> dict[str, Any]:
    request = form.request(io.BytesIO(), task)
    return {name: value for name, value in vars(request).items() if name != "source"}


def test_without_fields_everything_is_left_to_the_model() -> None:
    form = parsed()
    assert (form.response_format, form.stream, form.timestamp_granularities) == ("json", False, ("segment",))
    assert asked(form) == {
        "language": None, "task": "transcribe", "prompt": None, "hotwords": None, "temperature": None, "beam_size": None,
        "best_of": None, "words": False, "per_window_language": False, "channels": "mix",
    }  # fmt: skip


def test_fields_reach_the_request() -> None:
    form = parsed(
        language="Russian", prompt="Пример", hotwords="Карлссон", temperature="0.4", beam_size="3", best_of="2",
        per_window_language="true", channels="split", response_format="verbose_json", model="whisper-1",
        **{"timestamp_granularities[]": ["word"]},
    )  # fmt: skip
    assert asked(form, "translate") == {
        "language": "ru", "task": "translate", "prompt": "Пример", "hotwords": "Карлссон", "temperature": 0.4,
        "beam_size": 3, "best_of": 2, "words": True, "per_window_language": True, "channels": "split",
    }  # fmt: skip


def test_unknown_fields_are_ignored() -> None:
    extras = {"seed": "42", "vllm_xargs": "{}", "stream_include_usage": "true", "to_language": "en", "file[]": "x"}
    assert parsed(**extras) == parsed()


def test_empty_fields_count_as_not_sent() -> None:
    # Swagger's form sends every field, and the stock client always sends `model`, even empty.
    names = [*OpenAIForm.model_fields, *OpenAIForm.refused]
    assert parsed(**dict.fromkeys(names, ""), **{"timestamp_granularities[]": ["", " "]}) == parsed()


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities", "timestamp_granularities[0]"])
def test_lists_come_with_or_without_brackets(name: str) -> None:
    form = parsed(response_format="verbose_json", **{name: ["word", "segment"]})
    assert form.timestamp_granularities == ("word", "segment")


def test_of_a_field_sent_twice_the_last_counts() -> None:
    assert parsed(language=["de", "fr"]).language == "fr"


def test_keywords_are_hotwords() -> None:
    form = parsed(hotwords="Sonotome", **{"keywords[]": ["KServe", "Knative"]})
    assert asked(form)["hotwords"] == "Sonotome, KServe, Knative"


@pytest.mark.parametrize(
    ("fields", "param", "accepted"),
    [
        ({"response_format": "diarized_json"}, "response_format", "'verbose_json'"),
        ({"response_format": "JSON"}, "response_format", "'json'"),
        (
            {"timestamp_granularities[]": "foo", "response_format": "verbose_json"},
            "timestamp_granularities[]",
            "'word'",
        ),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]", "verbose_json"),
        ({"temperature": "3"}, "temperature", "less than or equal to 1"),
        ({"temperature": "-0.1"}, "temperature", "greater than or equal to 0"),
        ({"temperature": "nan"}, "temperature", "1"),
        ({"temperature": "warm"}, "temperature", "number"),
        ({"beam_size": "0"}, "beam_size", "1"),
        ({"beam_size": "21"}, "beam_size", "20"),
        ({"best_of": "1.5"}, "best_of", "integer"),
        ({"language": "klingonish"}, "language", "ISO-639-1"),
        ({"language": "xx"}, "language", "ISO-639-1"),
        ({"language": "x" * 60_000}, "language", "ISO-639-1"),
        ({"channels": "left"}, "channels", "'split'"),
        ({"stream": "maybe"}, "stream", "boolean"),
        ({"stream": "true", "response_format": "srt"}, "stream", "json or text"),
        ({"stream": "true", "response_format": "verbose_json"}, "stream", "json or text"),
        ({"stream": "true", "channels": "split"}, "stream", "channels=mix"),
        ({"chunking_strategy": '{"type":"server_vad"}'}, "chunking_strategy", "'auto'"),
        ({"chunking_strategy[type]": "server_vad"}, "chunking_strategy[type]", "'auto'"),
        ({"include[]": "logprobs"}, "include[]", "verbose_json"),
        ({"languages[]": ["en", "de"]}, "languages[]", "one language"),
        ({"known_speaker_names[]": "Ann"}, "known_speaker_names[]", "speakers"),
    ],
)
def test_values_that_are_not_supported_are_refused_by_name(fields: dict[str, Any], param: str, accepted: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert accepted in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt"])
def test_segments_may_be_asked_for_in_any_format(response_format: str) -> None:
    # What OpenAI's own API does, captured in speaches: tests/openai_timestamp_granularities_test.py
    form = parsed(response_format=response_format, **{"timestamp_granularities[]": "segment"})
    assert form.response_format == response_format


def test_the_simple_form_ignores_what_is_openais() -> None:
    form = parsed(
        SpeechForm, response_format="diarized_json", stream="true", language="auto", **{"include[]": "logprobs"}
    )
    assert form == parsed(SpeechForm)


@pytest.mark.parametrize("name", ["temperature", "beam_size", "best_of"])
def test_bounds_are_the_contracts(name: str) -> None:
    assert SpeechForm.model_fields[name].metadata == AsrOptions.model_fields[name].metadata


def test_protocol_parameters_are_validated_alike() -> None:
    form = ProtocolForm.from_values(
        {
            "language": "english",
            "temperature": 0.2,
            "timestamps": "word",
            "task": "translate",
            "contract": "asr/1",
            "beam_size": None,
        }
    )
    assert (form.task, asked(form)["words"], form.language, form.temperature) == ("translate", True, "en", 0.2)
    assert asked(ProtocolForm.from_values({}))["words"] is False
    for values in ({"temperature": 7}, {"task": "summarise"}, {"language": 5}, {"channels": ["split"]}):
        with pytest.raises(InvalidInput) as caught:
            ProtocolForm.from_values(values)
        assert caught.value.param == next(iter(values))
    with pytest.raises(InvalidInput, match="object"):
        ProtocolForm.from_values(["language"])


def test_the_form_is_described_for_the_docs() -> None:
    schema = OpenAIForm.openapi()["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["file"]
    assert schema["properties"]["file"]["format"] == "binary"
    assert set(schema["properties"]) == {"file", *OpenAIForm.model_fields}
    assert all(field.get("description") for field in schema["properties"].values())
