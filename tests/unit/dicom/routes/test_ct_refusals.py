"""What `/predict` refuses, each in the service's shape, and that a client who leaves takes all of the work along."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydicom.uid import JPEGBaseline8Bit

from serving.errors import DeadlineExceeded, InternalError, PredictorUnavailable
from tests.ct_series import ENCODERS, dicom, scan, zipped
from tests.servers import until
from tests.unit.dicom.routes.loopback import ARCHIVE, FILES, JSON_LIMIT, LIMIT, CtLoopback

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPLOADS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "no archive": (lambda: b"hello " * 200, 400, "not_an_archive"),
    "nothing": (lambda: b"", 400, "empty_file"),
    "no DICOM": (lambda: zipped([b"hello " * 200] * 3), 400, "no_dicom"),
    "cut off": (lambda: ARCHIVE[: len(ARCHIVE) // 2], 400, "damaged_archive"),
    "too large": (lambda: ARCHIVE + bytes(LIMIT), 413, "file_too_large"),
    "a bomb": (lambda: zipped([bytes(64 << 20)]), 413, "archive_too_large"),
    "a few slices": (lambda: zipped(FILES[:7]), 422, "too_few_slices"),
}


@pytest.mark.parametrize(("upload", "status", "code"), UPLOADS.values(), ids=UPLOADS)
async def test_uploads_that_are_no_study(pod: CtLoopback, upload: Callable[[], bytes], status: int, code: str) -> None:
    assert await pod.refusal(await pod.post(upload())) == (status, code)
    assert pod.fake.asked == []


async def test_a_transfer_syntax_that_is_not_read_is_named(pod: CtLoopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, JPEGBaseline8Bit, lambda _pixels: b"\xff\xd8\xff\xd9")
    refused = await pod.post(zipped(dicom(image, JPEGBaseline8Bit) for image in scan()))
    assert (await pod.refusal(refused))[0] == 415
    assert "JPEG Baseline" in refused.json()["error"]


async def test_a_gap_is_told_with_its_place(pod: CtLoopback) -> None:
    refused = await pod.post(zipped(FILES[:8] + FILES[12:]))
    assert (await pod.refusal(refused))[0] == 422
    assert "mm" in refused.json()["error"]


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "a head that there is not": ({"heads": "lungs"}, "heads"),
    "prompts that are left out": ({"heads": "risk", "prompts": "Pneumothorax"}, "heads"),
    "no prompts": ({"heads": "prompts"}, "prompts"),
    "explain": ({"explain": "perhaps"}, "explain"),
    "a UID": ({"series_uid": "series 1"}, "series_uid"),
    "a long UID": ({"series_uid": "1" * 65}, "series_uid"),
}


@pytest.mark.parametrize(("fields", "param"), FIELDS.values(), ids=FIELDS)
async def test_fields_that_are_not_accepted(pod: CtLoopback, fields: dict[str, Any], param: str) -> None:
    refused = await pod.post(**fields)
    assert (await pod.refusal(refused))[0] == 400
    assert refused.json()["param"] == param


async def test_no_refusal_repeats_a_uid(pod: CtLoopback) -> None:
    refused = await pod.post(series_uid="IVANOV^IVAN 1.2.840.113619")
    assert await pod.refusal(refused) == (400, "unsupported_value")
    assert "IVANOV" not in refused.text
    assert "113619" not in refused.text


async def test_a_prompt_that_is_too_long(pod: CtLoopback) -> None:
    refused = await pod.post(prompts="x" * 1001)
    assert (await pod.refusal(refused))[0] == 413
    assert "1000 characters" in refused.json()["error"]


async def test_more_files_than_are_accepted(pod: CtLoopback) -> None:
    refused = await pod.post(*[b"x"] * 31)
    assert await pod.refusal(refused) == (413, "too_many_files")
    assert "MAX_FORM_FILES" in refused.json()["error"]


async def test_a_form_without_a_file(pod: CtLoopback) -> None:
    assert await pod.refusal(await pod.http.post("/predict", data={"heads": "risk"})) == (400, "missing_file")
    assert await pod.refusal(await pod.http.post("/predict", content=b"x")) == (400, "missing_file")


BODIES = {"no JSON": b"{", "a list": b"[]", "no link": b"{}", "both": b'{"url": "http://a/", "dicomweb": "http://a/"}'}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_json_that_is_not_accepted(pod: CtLoopback, body: bytes) -> None:
    refused = await pod.http.post("/predict", content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert (await pod.refusal(refused))[0] == 400


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Without a length."""
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


async def test_json_over_its_limit(pod: CtLoopback) -> None:
    body = b" " * (JSON_LIMIT + 1)
    for content in (body, in_pieces(body)):
        refused = await pod.http.post("/predict", content=content, headers={"content-type": "application/json"})
        assert await pod.refusal(refused) == (413, "json_too_large")
        assert "MAX_JSON_BYTES" in refused.json()["error"]


async def test_json_that_finds_no_room_in_memory(pod: CtLoopback) -> None:
    with pod.bodies.share() as take:
        take(pod.settings.max_bodies_bytes)
        refused = await pod.http.post("/predict", json={"url": "ftp://a/"})
    assert await pod.refusal(refused) == (503, "too_many_bytes")
    assert (await pod.http.post("/predict", json={"url": "ftp://a/"})).status_code == 400


ERRORS = {
    "busy": (PredictorUnavailable("the predictor is busy or not ready", retry_after=7), 503, "predictor_unavailable"),
    "late": (DeadlineExceeded("the predictor did not answer"), 504, "deadline_exceeded"),
    "broken": (RuntimeError("/secret/path"), 500, "internal_error"),
    "no contract": (InternalError(), 500, "internal_error"),
}


@pytest.mark.parametrize(("error", "status", "code"), ERRORS.values(), ids=ERRORS)
async def test_what_the_predictor_does_wrong(pod: CtLoopback, error: Exception, status: int, code: str) -> None:
    pod.fake.error = error
    refused = await pod.post()
    assert await pod.refusal(refused) == (status, code)
    assert refused.headers.get("retry-after") == ("7" if status == 503 else None)
    assert "secret" not in refused.text


async def test_a_deadline_that_passes_while_the_predictor_works(pod: CtLoopback) -> None:
    pod.fake.waits = True
    headers = {"x-request-timeout-seconds": "3"}
    refused = await pod.http.post("/predict", files={"file": ARCHIVE}, headers=headers)
    assert await pod.refusal(refused) == (504, "deadline_exceeded")
    pod.fake.reset()
    await pod.answer()  # its place is free again


async def test_another_method_and_a_longer_path(pod: CtLoopback) -> None:
    refused = await pod.http.get("/predict")
    assert (await pod.refusal(refused))[0] == 405
    assert refused.headers["allow"] == "POST"


async def test_a_client_that_leaves_takes_the_work_along(pod: CtLoopback) -> None:
    """While its study is with the predictor: the call is cancelled, the upload gone, the place for a volume free."""
    pod.fake.waits = True
    leaving = asyncio.create_task(pod.post())
    await asyncio.wait_for(pod.fake.waiting.wait(), 240)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.wait_for(pod.fake.cancelled.wait(), 60)
    assert await pod.leftovers() == 0
    pod.fake.reset()
    await pod.answer()  # there is one place only


async def test_more_studies_than_may_wait(pod: CtLoopback) -> None:
    pod.fake.waits = True
    held = asyncio.create_task(pod.post())
    await asyncio.wait_for(pod.fake.waiting.wait(), 240)
    waiting = [asyncio.create_task(pod.post()) for _ in range(4)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=240, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = (task.result() for task in done)
        assert (refused.status_code, refused.json()["code"]) == (503, "readers_busy")
        assert "3, the limit here (STUDY_QUEUE)" in refused.json()["error"]
        assert refused.headers["retry-after"] == "1"
    finally:
        for task in (held, *waiting):
            task.cancel()
        await asyncio.gather(held, *waiting, return_exceptions=True)
    await until(pod.fake.cancelled.is_set, 60)
    assert await pod.leftovers() == 0
