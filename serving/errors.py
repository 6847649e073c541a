"""The one tree of errors. Each class has one HTTP status, one gRPC status and one OpenAI error type.

    ServingError
    ├── InvalidInput 400          the request cannot be understood
    ├── Unauthorized 401          no key, or a wrong one
    ├── NotFound 404              no such model, version or route
    ├── MethodNotAllowed 405      the route exists, the method does not
    ├── TooLarge 413              a size or duration limit was hit; the message names it
    ├── UnsupportedMedia 415      a container, codec or transfer syntax that is not read
    ├── Unprocessable 422         understood, but not what this service can work on
    ├── Overloaded 503            queues are full or the pod is draining; Retry-After is set
    ├── PredictorUnavailable 503  the predictor cannot be reached or is not ready; Retry-After is set
    ├── DeadlineExceeded 504      the request's deadline passed
    └── InternalError 500         anything else; the message is fixed, the cause is only in the log

Raise these anywhere in a pod; `serving.dialects` turns them into the body of the route's dialect, and KServe's gRPC
interceptor reads `status_code` and `details` (they are the attributes of `grpc_interceptor`'s exception, the base class).
What a client sent goes into a message by `shown` or `shortened` only.
"""

from typing import ClassVar

from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException

_MOST_PARAM = 200  # characters of a field's name that are repeated; it may be the client's own


def shortened(text: str, most: int = 40) -> str:
    """`text`; of one that has more than `most` characters so many, and an ellipsis."""
    return text if len(text) <= most else f"{text[:most]}…"


def shown(value: object, most: int = 40) -> str:
    """A client's value for a message: text in quotes and shortened, numbers as they are, and of all else the kind alone.

    Python's own `repr` would repeat any length of it, and raises RecursionError for JSON that is nested deep enough.
    """
    match value:
        case str():
            return repr(shortened(value, most))
        case None | bool() | int() | float():
            return str(value)
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case _:
            return type(value).__name__


class ServingError(GrpcException):  # type: ignore[misc]  # the base ships no types
    """An error that a client is meant to see.

    Args:
        message: what was wrong, what is accepted, and the limit that was hit. Never an address, a path or a traceback.
        code: a stable, machine-readable word for the case, e.g. "audio_too_long"; the class's own by default.
        param: the request field at fault, in the client's own spelling; shortened.
        retry_after: seconds after which the same request may succeed; sent as the Retry-After header.
    """

    http_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"
    status_code = StatusCode.INTERNAL

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after: float | None = None
    ):
        super().__init__(details=message)
        self.message = message
        self.code = code or self.default_code
        self.param = None if param is None else shortened(param, _MOST_PARAM)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class InvalidInput(ServingError):
    """400: the request cannot be understood."""

    http_status = 400
    openai_type = "invalid_request_error"
    default_code = "invalid_input"
    status_code = StatusCode.INVALID_ARGUMENT


class Unauthorized(ServingError):
    """401: no API key was sent, or one that is not known."""

    http_status = 401
    openai_type = "authentication_error"
    default_code = "invalid_api_key"
    status_code = StatusCode.UNAUTHENTICATED


class NotFound(ServingError):
    """404: no such model, version or route."""

    http_status = 404
    openai_type = "not_found_error"
    default_code = "not_found"
    status_code = StatusCode.NOT_FOUND


class MethodNotAllowed(ServingError):
    """405: the route exists, but not with this method."""

    http_status = 405
    openai_type = "invalid_request_error"
    default_code = "method_not_allowed"
    status_code = StatusCode.UNIMPLEMENTED


class TooLarge(ServingError):
    """413: a size or duration limit was hit; the message names the limit."""

    http_status = 413
    openai_type = "invalid_request_error"
    default_code = "too_large"
    status_code = StatusCode.RESOURCE_EXHAUSTED


class UnsupportedMedia(ServingError):
    """415: a container, codec or transfer syntax that this service does not read."""

    http_status = 415
    openai_type = "invalid_request_error"
    default_code = "unsupported_media"
    status_code = StatusCode.INVALID_ARGUMENT


class Unprocessable(ServingError):
    """422: the request is well-formed, but its content is not what this service can work on."""

    http_status = 422
    openai_type = "invalid_request_error"
    default_code = "unprocessable"
    status_code = StatusCode.FAILED_PRECONDITION


class Overloaded(ServingError):
    """503: a queue is full or the pod is draining. `retry_after` defaults to one second."""

    http_status = 503
    openai_type = "server_error"
    default_code = "overloaded"
    status_code = StatusCode.UNAVAILABLE

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after: float | None = 1.0
    ):
        super().__init__(message, code=code, param=param, retry_after=retry_after)


class PredictorUnavailable(Overloaded):
    """503: the predictor cannot be reached, is not ready, or died while it worked on this request."""

    default_code = "predictor_unavailable"


class DeadlineExceeded(ServingError):
    """504: the request's deadline passed before there was an answer."""

    http_status = 504
    openai_type = "timeout_error"
    default_code = "deadline_exceeded"
    status_code = StatusCode.DEADLINE_EXCEEDED


class InternalError(ServingError):
    """500: a fault of ours. The text is fixed so that nothing from inside reaches a client."""

    MESSAGE: ClassVar[str] = "internal error; the request id identifies it in the server's log"

    def __init__(self) -> None:
        super().__init__(self.MESSAGE)


BY_STATUS: dict[int, type[ServingError]] = {
    cls.http_status: cls
    for cls in (
        InvalidInput,
        Unauthorized,
        NotFound,
        MethodNotAllowed,
        TooLarge,
        UnsupportedMedia,
        Unprocessable,
        Overloaded,
        DeadlineExceeded,
    )
}
"""The class that stands for an HTTP status: how a client of ours (the hop) re-raises what a predictor answered."""
