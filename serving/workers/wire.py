"""What a pool and its worker processes say to each other, over one UNIX socket each.

A job is a header, its descriptors beside that (SCM_RIGHTS), and JSON; the answers are messages of a kind, a length and that
many bytes. The kinds between READY and REFUSED are the work's own. Standard library only: a worker imports this before
anything else, and starts fast for it.
"""

import struct
from typing import Final, TypedDict

HEADER: Final = struct.Struct("<cI")
"""Before each message: its kind, then the length of its payload."""
MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Longest payload of a worker. One that announces more is broken."""
MAX_DESCRIPTORS: Final = 4
"""Most descriptors beside a job."""

JOB: Final = b"J"
"""To a worker: JSON of what to do with the descriptors that come along."""
READY: Final = b"R"
"""It can take a job."""
REFUSED: Final = b"X"
"""The job is not done (any further): JSON of `Refusal`."""


class Refusal(TypedDict):
    """Why a job is refused: an HTTP status of `serving.errors`, a stable word, a text for the client."""

    status: int
    code: str
    message: str
    fatal: bool
    """Whether the worker is of no further use."""


class RefusedError(Exception):
    """A file that is not worked on; the fields become `Refusal`."""

    def __init__(self, status: int, code: str, message: str, *, fatal: bool = False):
        super().__init__(message)
        self.status = status
        self.code = code
        self.fatal = fatal
