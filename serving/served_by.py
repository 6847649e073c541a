"""Which revisions worked on a request: every answer names them in `x-served-by`, a canary's like any other's.

A transformer's answer names its own revision and those of the predictors that its windows went to, sorted, separated by
commas; a stream of events those that are known when it begins. The names are Knative's; elsewhere there is no header.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "x-served-by"

_NAME = re.compile(r"[a-z0-9.-]{1,253}")  # what Kubernetes calls an object
_NAMES: ContextVar[set[str] | None] = ContextVar("served_by", default=None)


@contextmanager
def noting(revision: str) -> Iterator[set[str]]:
    """The revisions that work on one request, this pod's first; its tasks add to the same set."""
    names = {revision} - {""}
    token = _NAMES.set(names)
    try:
        yield names
    finally:
        _NAMES.reset(token)


def note(header: str) -> None:
    """Adds the names in the header of another pod's answer."""
    names = _NAMES.get()
    if names is not None:
        names.update(name for name in map(str.strip, header.split(",")) if _NAME.fullmatch(name))
