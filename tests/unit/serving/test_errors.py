"""The tree of errors: every class has one status in each protocol, and says only what it was given to say."""

import asyncio

import pytest
from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException

from serving import errors
from serving.errors import ServingError


def tree(cls: type[ServingError] = ServingError) -> list[type[ServingError]]:
    return [found for child in cls.__subclasses__() for found in (child, *tree(child))]


def make(cls: type[ServingError]) -> ServingError:
    return errors.InternalError() if cls is errors.InternalError else cls("what was wrong")


EXPECTED = {
    errors.InvalidInput: (400, StatusCode.INVALID_ARGUMENT),
    errors.Unauthorized: (401, StatusCode.UNAUTHENTICATED),
    errors.NotFound: (404, StatusCode.NOT_FOUND),
    errors.MethodNotAllowed: (405, StatusCode.UNIMPLEMENTED),
    errors.TooLarge: (413, StatusCode.RESOURCE_EXHAUSTED),
    errors.UnsupportedMedia: (415, StatusCode.INVALID_ARGUMENT),
    errors.Unprocessable: (422, StatusCode.FAILED_PRECONDITION),
    errors.Overloaded: (503, StatusCode.UNAVAILABLE),
    errors.PredictorUnavailable: (503, StatusCode.UNAVAILABLE),
    errors.DeadlineExceeded: (504, StatusCode.DEADLINE_EXCEEDED),
    errors.InternalError: (500, StatusCode.INTERNAL),
}


def test_the_table_names_every_class() -> None:
    assert {cls for cls in tree() if cls.__module__ == errors.__name__} == set(EXPECTED)


@pytest.mark.parametrize(("cls", "expected"), EXPECTED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_class_has_one_status_in_each_protocol(cls: type[ServingError], expected: tuple[int, StatusCode]) -> None:
    error = make(cls)
    assert (error.http_status, error.status_code) == expected
    assert isinstance(error, GrpcException)
    assert error.details == error.message == str(error)
    assert error.code
    assert cls.openai_type != ServingError.openai_type or error.http_status >= 500


def test_by_status_raises_what_the_predictor_meant() -> None:
    assert {status: cls.http_status for status, cls in errors.BY_STATUS.items()} == {s: s for s in errors.BY_STATUS}
    assert errors.BY_STATUS[503] is errors.Overloaded
    assert 500 not in errors.BY_STATUS  # its text is fixed


def test_what_was_given_is_kept() -> None:
    error = errors.TooLarge("at most 10 s", code="audio_too_long", param="file", retry_after=3)
    assert (error.code, error.param, error.retry_after) == ("audio_too_long", "file", 3)
    assert errors.TooLarge("x").code == "too_large"
    assert errors.TooLarge("x").retry_after is None


def test_overload_says_when_to_come_back() -> None:
    assert errors.Overloaded("full").retry_after == 1.0
    assert errors.PredictorUnavailable("gone", retry_after=4).retry_after == 4


def test_an_internal_error_says_nothing_of_its_cause() -> None:
    with pytest.raises(TypeError):
        errors.InternalError("secret path /x")  # type: ignore[call-arg]  # that is the test
    assert errors.InternalError().message == errors.InternalError.MESSAGE


async def test_one_error_may_be_raised_by_many_waiters() -> None:
    shared = errors.InvalidInput("bad batch")

    async def wait() -> None:
        raise shared

    outcomes = await asyncio.gather(wait(), wait(), return_exceptions=True)
    assert list(outcomes) == [shared, shared]
