"""Worker processes, started once and replaced when they die, and the queue for them.

The pool knows processes, places and messages; what a job is and what its answers mean, those who use it know
(`child` is the other end). Not here: limits of time, which belong to the work.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

from prometheus_client import Gauge

from serving.errors import Overloaded
from serving.workers.wire import HEADER, JOB, MAX_PAYLOAD_BYTES

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[2]  # where `-m` finds the workers' module
_START_SECONDS = 60.0  # a worker starts in 0.3 s; this is for a node that is busy with everything else
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "SYSTEMROOT")
_WORKER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""A worker gets no secrets, and no threads or malloc arenas that would reserve address space."""


class WorkerPool:
    """Worker processes of one module, which ends in `serving.workers.child.serve`.

    `start()` and `close()` belong to one event loop; `close()` comes after the last job.

    Args:
        module: what `python -m` runs.
        workers: processes; as many jobs at a time, the others wait.
        queue: most jobs that wait.
        memory_bytes: memory that one job may take in its worker, on top of what an idle one has.
        overloaded: the refusal when `queue` jobs wait already.
        waiting: counts the jobs that wait.
        lazy: start each worker with its first job, not with the pool.
    """

    def __init__(
        self,
        module: str,
        *,
        workers: int,
        queue: int,
        memory_bytes: int,
        overloaded: Callable[[], Overloaded],
        waiting: Gauge | None = None,
        lazy: bool = False,
    ):
        self._module = module
        self._size = workers
        self._queue = queue
        self._memory_bytes = memory_bytes
        self._overloaded = overloaded
        self._gauge = waiting
        self._lazy = lazy
        # Free places, each with its worker; None where one has still to be started. The last used is the warmest.
        self._free: asyncio.LifoQueue[Worker | None] = asyncio.LifoQueue()
        self._workers: set[Worker] = set()
        self._replacements: set[asyncio.Task[None]] = set()
        self._waiting = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Starts the workers, unless they are to come with their first job. Raises RuntimeError when one does not come up."""
        if self._lazy:
            for _ in range(self._size):
                self._free.put_nowait(None)
            return
        found = await asyncio.gather(*(self._spawn() for _ in range(self._size)), return_exceptions=True)
        for worker in found:
            if isinstance(worker, BaseException):
                await self.close()
                raise worker
            self._free.put_nowait(worker)

    async def close(self) -> None:
        """Ends every worker, whatever it is doing."""
        for task in self._replacements:
            task.cancel()
        await asyncio.gather(*self._replacements, return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers)))

    @contextlib.asynccontextmanager
    async def hire(self, job: Any, descriptors: Sequence[int]) -> "AsyncGenerator[Worker, None]":
        """A worker that has begun the job. Waits while all are busy.

        Leaving the context ends the job: a worker that was not told `done` is replaced.

        Args:
            job: what to do, for JSON.
            descriptors: the files for it, which stay the caller's.

        Raises:
            Overloaded: too many jobs wait already.
        """
        worker = await self._hire(job, descriptors)
        worker.done = False
        try:
            yield worker
        finally:
            self._release(worker)

    async def _hire(self, job: Any, descriptors: Sequence[int]) -> "Worker":
        worker = await self._wait_for_place()
        try:
            if worker is None or not worker.begin(job, descriptors):
                if worker is not None:  # it died while it was free
                    await self._end(worker)
                worker = await self._spawn()
                if not worker.begin(job, descriptors):
                    raise RuntimeError("a worker process died as it was started")
        except BaseException:
            self._free.put_nowait(None)
            raise
        return worker

    async def _wait_for_place(self) -> "Worker | None":
        """A free place out of `_free`. Raises Overloaded."""
        if self._free.empty() and self._waiting >= self._queue:
            raise self._overloaded()
        self._waiting += 1
        try:
            with self._gauge.track_inprogress() if self._gauge is not None else contextlib.nullcontext():
                return await self._free.get()
        finally:
            self._waiting -= 1

    def _release(self, worker: "Worker") -> None:
        if worker.done:
            self._free.put_nowait(worker)
            return
        worker.kill()
        if self._lazy:
            self._free.put_nowait(None)
        task = asyncio.create_task(self._end(worker) if self._lazy else self._replace(worker))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replace(self, worker: "Worker") -> None:
        new: Worker | None = None
        try:
            await self._end(worker)
            new = await self._spawn()
        except (OSError, RuntimeError):
            logger.exception("a worker process cannot be replaced; the next file tries again")
        finally:
            self._free.put_nowait(new)

    async def _spawn(self) -> "Worker":
        worker = await Worker.start(self._module, self._memory_bytes)
        self._workers.add(worker)
        return worker

    async def _end(self, worker: "Worker") -> None:
        await worker.end()
        self._workers.discard(worker)


class Worker:
    """One process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ):
        self._process = process
        self._control = control
        self._reader = reader
        self._writer = writer
        self.done = False
        """Whether the job has ended and the worker is free for the next; whoever reads the messages says so."""

    @classmethod
    async def start(cls, module: str, memory_bytes: int) -> Self:
        """Starts a process and waits until it can take a job. Raises RuntimeError, or OSError from the start itself."""
        async with contextlib.AsyncExitStack() as on_failure:  # a pool that closes cancels a start at any of its awaits
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            on_failure.callback(ours.close)
            environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", module, str(os.getpid()), str(memory_bytes)),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the pod, which lets its requests end
                    cwd=_ROOT,
                    env=environment | _WORKER_ENVIRONMENT,
                )
            on_failure.push_async_callback(process.wait)
            on_failure.callback(_kill, process)
            # The pool writes headers past the stream: descriptors go beside them, and a free worker's socket is empty.
            control = ours.dup()
            on_failure.callback(control.close)
            worker = cls(process, control, *await asyncio.open_unix_connection(sock=ours))
            on_failure.push_async_callback(worker.end)
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await worker.receive()
            except (TimeoutError, EOFError, OSError) as error:
                raise RuntimeError(f"a worker process of {module} does not start; its own output says why") from error
            on_failure.pop_all()
        return worker

    def begin(self, job: Any, descriptors: Sequence[int]) -> bool:
        """Hands a free worker a job; False when the process has died."""
        payload = json.dumps(job).encode()
        try:
            socket.send_fds(self._control, [HEADER.pack(JOB, len(payload))], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return False
        self._writer.write(payload)
        return True

    async def receive(self) -> tuple[bytes, bytes]:
        """The next message. Raises EOFError or OSError when the process is gone or talks nonsense."""
        kind, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        if size > MAX_PAYLOAD_BYTES:
            raise OSError("a message is longer than the protocol allows")
        return kind, await self._reader.readexactly(size)

    def kill(self) -> None:
        """Ends the process at once; `end()` waits for that."""
        _kill(self._process)
        self._writer.transport.abort()
        self._control.close()

    async def end(self) -> None:
        """Ends the process and waits until it is gone."""
        self.kill()
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
