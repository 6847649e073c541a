"""Errors in the dialect of their route, and what becomes of the errors that other code raises."""

from typing import Any

import orjson
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from kserve import errors as kserve_errors
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving import errors
from serving.dialects import Dialects, from_exception, kserve_body, openai_body
from serving.errors import ServingError

TOO_LONG = errors.TooLarge("at most 10 s of audio", code="audio_too_long", param="file")


@pytest.fixture
def dialects() -> Dialects:
    made = Dialects()
    made.register("/v1/audio", openai_body)
    made.register("/v1/audio/plain/", kserve_body)
    made.register("/process", lambda error: {"status": "error", "message": error.message})
    return made


OPENAI = {
    "error": {
        "message": "at most 10 s of audio",
        "type": "invalid_request_error",
        "param": "file",
        "code": "audio_too_long",
    }
}
KSERVE = {"error": "at most 10 s of audio"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/audio", OPENAI),
        ("/v1/audio/transcriptions", OPENAI),
        ("/v1/audiobook", KSERVE),
        ("/v1/audio/plain", KSERVE),
        ("/v1/audio/plain/x", KSERVE),
        ("/v1/audio/plainer", OPENAI),
        ("/process", {"status": "error", "message": "at most 10 s of audio"}),
        ("/v2/models/m/infer", KSERVE),
        ("", KSERVE),
        ("/", KSERVE),
    ],
)
def test_the_longest_prefix_gives_the_shape(dialects: Dialects, path: str, expected: dict[str, Any]) -> None:
    assert dialects.body(path, TOO_LONG) == expected
    response = dialects.response(path, TOO_LONG)
    assert (response.status_code, orjson.loads(response.body)) == (413, expected)
    assert response.headers["content-type"] == "application/json"


def test_a_root_dialect_is_everyones_default(dialects: Dialects) -> None:
    dialects.register("/", lambda error: {"root": error.message})
    assert dialects.body("/anything", TOO_LONG) == {"root": "at most 10 s of audio"}
    assert dialects.body("/v1/audio/x", TOO_LONG) == OPENAI


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(0, "1"), (0.2, "1"), (1.6, "2"), (30, "30"), (None, None)],
)
def test_retry_after_is_whole_seconds_and_never_zero(seconds: float | None, header: str | None) -> None:
    response = Dialects().response("/", errors.Overloaded("full", retry_after=seconds))
    assert response.headers.get("retry-after") == header


def test_401_names_its_scheme() -> None:
    assert Dialects().response("/", errors.Unauthorized("no key")).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in Dialects().response("/", TOO_LONG).headers


@given(st.text())
def test_any_message_makes_a_body(message: str) -> None:
    made = Dialects()
    made.register("/v1/audio", openai_body)
    assert orjson.loads(made.response("/", errors.InvalidInput(message)).body) == {"error": message}
    shaped = orjson.loads(made.response("/v1/audio", errors.InvalidInput(message)).body)
    assert shaped["error"]["message"] == message


VALIDATION = RequestValidationError([{"loc": ("body", "file"), "msg": "Field required", "type": "missing"}])

KNOWN: list[tuple[BaseException, type[ServingError], str]] = [
    (TOO_LONG, errors.TooLarge, "at most 10 s of audio"),
    (kserve_errors.ModelNotFound("m"), errors.NotFound, "Model with name m does not exist."),
    (kserve_errors.ModelNotReady("m"), errors.Overloaded, "the model is not ready"),
    (kserve_errors.ServerNotReady(), errors.Overloaded, "the model is not ready"),
    (kserve_errors.InvalidInput("no"), errors.InvalidInput, "no"),
    (VALIDATION, errors.InvalidInput, "file: Field required"),
    (HTTPException(404), errors.NotFound, "Not Found"),
    (HTTPException(405), errors.MethodNotAllowed, "Method Not Allowed"),
    (HTTPException(413, "too big"), errors.TooLarge, "too big"),
    (HTTPException(418, "teapot"), errors.InvalidInput, "teapot"),
    (ClientDisconnect(), errors.InvalidInput, "the connection ended before the request did"),
    (TimeoutError(), errors.DeadlineExceeded, "the deadline passed before there was an answer"),
]


@pytest.mark.parametrize(("raised", "cls", "message"), KNOWN, ids=lambda value: type(value).__name__)
def test_errors_of_other_code_become_ours(raised: BaseException, cls: type[ServingError], message: str) -> None:
    found = from_exception(raised)
    assert type(found) is cls
    assert found.message == message


def test_an_error_that_a_framework_wrapped_is_still_ours() -> None:
    """FastAPI turns whatever stops it reading a form into a 400; the body limit is not a 400."""
    wrapped = HTTPException(400, "There was an error parsing the body")
    wrapped.__cause__ = TOO_LONG
    assert from_exception(wrapped) is TOO_LONG


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("secret path /x"),
        HTTPException(500, "secret"),
        kserve_errors.InferenceError("secret"),
        OSError("secret"),
        KeyError("secret"),
    ],
)
def test_faults_of_ours_are_not_for_clients(fault: Exception) -> None:
    assert from_exception(fault) is None
