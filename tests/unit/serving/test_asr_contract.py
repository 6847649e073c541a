"""The contract asr/1: both sides of the hop read what the other wrote, and refuse by name what does not keep it."""

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve import InferRequest, InferResponse

from serving import v2
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Segment, Word
from serving.errors import InvalidInput, ServingError, TooLarge


def over_the_wire(request: InferRequest) -> InferRequest:
    parts, length = v2.encode(request)
    return v2.decode_request(b"".join(parts), length, "m")


def answer_over_the_wire(response: InferResponse) -> InferResponse:
    parts, length = v2.encode(response)
    return v2.decode_response(b"".join(parts), length)


options = st.builds(
    AsrOptions,
    language=st.none() | st.sampled_from(["ru", "en"]),
    task=st.sampled_from(["transcribe", "translate"]),
    prompt=st.none() | st.text(max_size=9),
    temperature=st.none() | st.sampled_from([0.0, 0.4, 1.0]),
    beam_size=st.none() | st.integers(1, 20),
    timestamps=st.sampled_from(["none", "segment", "word"]),
)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), options)
def test_windows_of_any_lengths_cross_the_hop_unchanged(lengths: list[int], chosen: AsrOptions) -> None:
    sent = [AsrInput(np.linspace(-1, 1, length, dtype=np.float32), chosen) for length in lengths]
    back = asr.read_request(over_the_wire(asr.write_request(sent, "m")))
    assert [item.options for item in back] == [chosen] * len(sent)
    for before, after in zip(sent, back, strict=True):
        np.testing.assert_array_equal(after.samples, before.samples)


def test_windows_with_unlike_options_are_no_request() -> None:
    silence = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="share their options"):
        asr.write_request([AsrInput(silence, AsrOptions()), AsrInput(silence, AsrOptions(language="ru"))], "m")


def test_results_cross_the_hop_unchanged() -> None:
    word = Word(word=" да", start=0.1, end=0.5, probability=0.9)
    segment = Segment(start=0.1, end=0.5, text=" да", tokens=[7], avg_logprob=-0.2, words=[word])
    results = [
        AsrResult(text=" да", language="ru", language_probability=0.99, segments=[segment]),
        AsrResult(text="", language=None),
    ]
    response = asr.write_response(results, InferRequest("m", []), "m")
    assert asr.read_response(answer_over_the_wire(response)) == results


def request(arrays: dict[str, Any], **parameters: Any) -> InferRequest:
    return over_the_wire(v2.request("m", arrays, parameters))


AUDIO = np.zeros((2, 8), np.float32)
REFUSED = {
    "no audio": ({"LENGTHS": np.zeros(2, np.int32)}, {}, "input 'AUDIO' is needed"),
    "float64": ({"AUDIO": AUDIO.astype(np.float64)}, {}, "input 'AUDIO' is needed: FP32"),
    "one dimension": ({"AUDIO": AUDIO[0]}, {}, r"of shape \[N, S\]"),
    "NaN": ({"AUDIO": AUDIO * np.nan}, {}, "not finite"),
    "infinite": ({"AUDIO": AUDIO + np.inf}, {}, "not finite"),
    "too few lengths": ({"AUDIO": AUDIO, "LENGTHS": np.ones(1, np.int32)}, {}, r"INT32 of shape \[2\]"),
    "lengths are fractions": ({"AUDIO": AUDIO, "LENGTHS": np.ones(2, np.float32)}, {}, "must be INT32"),
    "length above S": ({"AUDIO": AUDIO, "LENGTHS": np.array([1, 9])}, {}, r"must lie in 0\.\.8"),
    "length below 0": ({"AUDIO": AUDIO, "LENGTHS": np.array([1, -1])}, {}, r"must lie in 0\.\.8"),
    "another contract": ({"AUDIO": AUDIO}, {"contract": "asr/2"}, "speaks 'asr/1'"),
    "contract of another type": ({"AUDIO": AUDIO}, {"contract": {"asr": 1}}, "speaks 'asr/1'"),
    "task": ({"AUDIO": AUDIO}, {"task": "sing"}, "parameter 'task'"),
    "temperature": ({"AUDIO": AUDIO}, {"temperature": 2}, "parameter 'temperature'"),
    "beam_size": ({"AUDIO": AUDIO}, {"beam_size": 0}, "parameter 'beam_size'"),
    "sample_rate": ({"AUDIO": AUDIO}, {"sample_rate": "fast"}, "parameter 'sample_rate'"),
    "language": ({"AUDIO": AUDIO}, {"language": ["ru"]}, "parameter 'language'"),
}


@pytest.mark.parametrize(("arrays", "parameters", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_requests_that_do_not_keep_the_contract_are_refused_by_name(
    arrays: dict[str, Any], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        asr.read_request(request(arrays, **parameters))


def test_no_bytes_cannot_ask_for_a_billion_windows() -> None:
    text = b'{"inputs":[{"name":"AUDIO","shape":[2147483648,0],"datatype":"FP32","parameters":{"binary_data_size":0}}]}'
    with pytest.raises(TooLarge, match="at most 4096"):
        asr.read_request(v2.decode_request(text, len(text), "m"))
    with pytest.raises(TooLarge, match="at most 4096"):
        asr.read_v1({"instances": [{}] * 5000})


def test_parameters_of_a_newer_transformer_are_ignored() -> None:
    (first, _) = asr.read_request(request({"AUDIO": AUDIO}, contract="asr/1", diarize=True, language="ru"))
    assert first.options == AsrOptions(language="ru")
    assert len(first.samples) == 8  # without LENGTHS all of S is audio


@pytest.mark.parametrize(
    "rows",
    [[b"not json"], [b'{"text": 1}'], [b'{"text": "what was said", "segments": "what was said"}'], [b"\xff"]],
    ids=["no JSON", "no text", "wrong type", "no UTF-8"],
)
def test_an_answer_that_does_not_keep_the_contract_is_our_fault_and_its_text_stays_out_of_the_log(
    rows: list[bytes],
) -> None:
    answer = answer_over_the_wire(v2.response(InferRequest("m", []), "m", {"RESULT": v2.bytes_array(rows)}))
    with pytest.raises(ValueError, match=r"AsrResult") as caught:
        asr.read_response(answer)
    assert "what was said" not in str(caught.value)


def test_an_answer_whose_bytes_lie_is_no_error_of_the_client() -> None:
    text = b'{"outputs":[{"name":"RESULT","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}'
    with pytest.raises(ValueError, match="RESULT") as caught:
        asr.read_response(v2.decode_response(text + b"\xff\xff\xff\xffa", len(text)))
    assert not isinstance(caught.value, ServingError)
    many = v2.bytes_array([b"{}"] * (v2.MAX_ELEMENTS + 1))
    with pytest.raises(ValueError, match=r"'RESULT' has \d+ elements"):
        asr.read_response(answer_over_the_wire(v2.response(InferRequest("m", []), "m", {"RESULT": many})))
    with pytest.raises(ValueError, match="no output 'RESULT'"):
        asr.read_response(v2.decode_response(b'{"outputs":[]}', None))


# --- V1 ---


def test_v1_takes_no_samples_for_an_empty_window() -> None:
    assert len(asr.read_v1({"instances": [{"audio": []}]})[0].samples) == 0


def test_v1_takes_numbers_or_base64() -> None:
    samples = np.array([0.5, -0.25], np.float32)
    encoded = {"b64": base64.b64encode(samples.tobytes()).decode()}
    body = {"instances": [{"audio": [0.5, -0.25]}, {"audio": encoded}], "parameters": {"language": "ru"}}
    for item in asr.read_v1(body):
        assert item.samples.tolist() == [0.5, -0.25]
        assert item.options.language == "ru"


@pytest.mark.parametrize(
    "audio",
    [None, "text", {}, {"b64": "!"}, {"b64": "YWJj"}, {"b64": 7}, [[1.0], [2.0]], ["a"], [None], [1e39], [{}], 3],
)
def test_v1_names_the_instance_at_fault(audio: Any) -> None:
    with pytest.raises(InvalidInput, match=r"instances\[1\]\.audio must be mono samples"):
        asr.read_v1({"instances": [{"audio": [0.0]}, {"audio": audio}]})


@pytest.mark.parametrize("instance", [None, 1, "x", [], {"b64": "AAAA"}])
def test_v1_instances_must_hold_audio(instance: Any) -> None:
    with pytest.raises(InvalidInput, match=r"instances\[0\]\.audio"):
        asr.read_v1({"instances": [instance]})


def test_v1_answers_one_prediction_an_instance() -> None:
    written = asr.write_v1([AsrResult(text="a"), AsrResult(text="b")])
    assert [prediction["text"] for prediction in written["predictions"]] == ["a", "b"]


def test_the_warm_up_item_is_a_window_that_the_contract_accepts() -> None:
    item = asr.warm_up_item()
    (back,) = asr.read_request(over_the_wire(asr.write_request([item], "m")))
    np.testing.assert_array_equal(back.samples, item.samples)
    assert 0.01 < float(np.abs(item.samples).max()) <= 1
