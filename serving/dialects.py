"""Errors as the client of a route expects them: one tree (`serving.errors`), one body shape a family of routes.

KServe's shape `{"error": "…"}` is the default; a router registers its own for the path prefixes it owns.
"""

from collections.abc import Callable
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from kserve import errors as kserve_errors
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from serving import errors
from serving.errors import ServingError, shortened

Render = Callable[[ServingError], dict[str, Any]]
_MOST = 200  # characters of what other code says: it repeats what a client sent, a model's name say, at any length


def kserve_body(error: ServingError) -> dict[str, Any]:
    """KServe's V1 and V2 shape."""
    return {"error": error.message}


def openai_body(error: ServingError) -> dict[str, Any]:
    """OpenAI's shape; every stock client reads `message`, `type`, `param` and `code` from it."""
    return {"error": {"message": error.message, "type": error.openai_type, "param": error.param, "code": error.code}}


class Dialects:
    """Which body shape belongs to which path. The longest registered prefix wins."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, Render] = {}

    def register(self, prefix: str, render: Render) -> None:
        """Routes whose path is `prefix` or starts with `prefix` and a slash answer errors with `render`."""
        self._by_prefix[prefix.rstrip("/")] = render

    def body(self, path: str, error: ServingError) -> dict[str, Any]:
        """The error's body for a request to `path`."""
        matches = [prefix for prefix in self._by_prefix if path == prefix or path.startswith(prefix + "/")]
        render = self._by_prefix[max(matches, key=len)] if matches else kserve_body
        return render(error)

    def response(self, path: str, error: ServingError) -> Response:
        """The whole HTTP response for `error`, with Retry-After and WWW-Authenticate where they belong."""
        headers = {}
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, round(error.retry_after)))
        if error.http_status == 401:
            headers["www-authenticate"] = "Bearer"
        return Response(
            orjson.dumps(self.body(path, error)), error.http_status, headers=headers, media_type="application/json"
        )


def from_exception(error: BaseException) -> ServingError | None:
    """The client-facing error for one that other code raised; None for a fault of ours (log it, answer InternalError)."""
    match error:
        case ServingError():
            known: ServingError | None = error
        case kserve_errors.ModelNotFound():
            known = errors.NotFound(shortened(str(error.reason), _MOST), code="model_not_found", param="model")
        case kserve_errors.ModelNotReady() | kserve_errors.ServerNotReady():
            known = errors.Overloaded("the model is not ready", code="model_not_ready")
        case kserve_errors.InvalidInput():
            known = errors.InvalidInput(shortened(str(error.reason), _MOST))
        case RequestValidationError():
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][1:])
            known = errors.InvalidInput(f"{field}: {first['msg']}", param=field)
        case HTTPException(__cause__=ServingError() as cause):
            known = cause  # FastAPI makes a 400 of whatever stops it reading a form, the body limit too
        case HTTPException(status_code=status) if status < 500:
            known = errors.BY_STATUS.get(status, errors.InvalidInput)(shortened(str(error.detail), _MOST))
        case ClientDisconnect():
            known = errors.InvalidInput("the connection ended before the request did", code="client_disconnected")
        case TimeoutError():
            known = errors.DeadlineExceeded("the deadline passed before there was an answer")
        case _:
            known = None
    return known
