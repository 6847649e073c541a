"""A worker process: confined, it takes jobs from its standard input until the pool ends it.

A crash, a memory bomb or an endless loop ends this process, which its parent (`pool.WorkerPool`) replaces. It imports nothing of
the pod but what the work needs, so that it starts fast and idles small.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from serving.workers.wire import HEADER, MAX_DESCRIPTORS, READY, REFUSED, Refusal, RefusedError

Send = Callable[[bytes, bytes], None]
"""Sends a message: its kind, its payload."""
Work = Callable[[Any, list[int], Send], None]
"""Does a job: what the pool asks, its descriptors, which are closed afterwards, and the way to answer.

It raises RefusedError for what it does not do, or not any further.
"""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(work: Work, *, out_of_memory: str) -> None:
    """Entry point of `python -m MODULE PARENT MEMORY_BYTES`, a socket as standard input.

    Args:
        work: does each job.
        out_of_memory: the text for a job that takes more memory than it may; the code is "decoder_memory".
    """
    parent, memory_bytes = (int(argument) for argument in sys.argv[1:])
    _confine(parent, memory_bytes)
    with socket.socket(fileno=0) as pool, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        send = _sender(pool)
        send(READY, b"")
        while True:
            header, descriptors, _, _ = socket.recv_fds(pool, HEADER.size, MAX_DESCRIPTORS, socket.MSG_WAITALL)
            if not header:
                return
            try:
                _answer(work, json.loads(_exactly(pool, HEADER.unpack(header)[1])), descriptors, send, out_of_memory)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)


def _confine(parent: int, memory_bytes: int) -> None:
    """Dies with the parent, leaves no core dump, and takes only so much memory on top of what it has."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the line above
        sys.exit(1)
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # pathlib is one more import at start
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + memory_bytes, size + memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _sender(pool: socket.socket) -> Send:
    def send(kind: bytes, payload: bytes) -> None:
        pool.sendall(HEADER.pack(kind, len(payload)))
        pool.sendall(payload)

    return send


def _exactly(pool: socket.socket, size: int) -> bytearray:
    """The next `size` bytes. Raises ConnectionResetError when there are fewer."""
    payload = bytearray(size)
    view = memoryview(payload)
    while view:
        count = pool.recv_into(view)
        if not count:
            raise ConnectionResetError
        view = view[count:]
    return payload


def _answer(work: Work, job: Any, descriptors: list[int], send: Send, out_of_memory: str) -> None:
    try:
        work(job, descriptors, send)
    except RefusedError as error:
        refused = Refusal(status=error.status, code=error.code, message=str(error), fatal=error.fatal)
    except MemoryError:
        refused = Refusal(status=422, code="decoder_memory", message=out_of_memory, fatal=True)
    else:
        return
    send(REFUSED, json.dumps(refused).encode())
