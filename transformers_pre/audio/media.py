"""Recordings in any container and codec, decoded by a pool of worker processes into a stream of 16 kHz mono blocks.

The pool knows processes, limits and back-pressure; what is in a file only its workers find out
(`transformers_pre.audio.decoder`), and what a file does to one never reaches this process. Not here: where files come from,
speech.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from serving import telemetry
from serving.errors import BY_STATUS, Overloaded, ServingError, Unprocessable
from transformers_pre.audio.wire import HEADER, MAX_PAYLOAD_BYTES, SAMPLE_RATE, End, Info, Job, Kind, Refusal

__all__ = ["SAMPLE_RATE", "DecodedAudio", "DecoderPool", "MediaLimits"]

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]

_ROOT = Path(__file__).parents[2]  # where `-m` finds the worker's module
_START_SECONDS = 60.0  # a worker starts in 0.3 s; this is for a node that is busy with everything else
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "SYSTEMROOT")
_WORKER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""A worker gets no secrets, and no threads or malloc arenas that would reserve address space."""


@dataclass(frozen=True)
class MediaLimits:
    """What decoding may take. A refusal names the setting that holds the value."""

    workers: int
    """Processes that decode; as many files at a time, the others wait."""
    queue: int
    """Most files that wait."""
    memory_bytes: int
    """Memory that one file may take in its worker, on top of what an idle one has (50 MB resident)."""
    timeout_seconds: float
    """Time that one file's decoding may be waited for; the time that its reader takes does not count."""
    max_audio_seconds: float
    """Longest audio; 0 for no limit."""
    max_channels: int
    """Most channels of a file."""


class DecodedAudio:
    """One file's samples: an asynchronous iterator of mono float32 blocks [n] in [-1, 1] at 16 kHz, about a second each.

    Blocks are read-only. Iterating raises TooLarge (duration), Unprocessable (damaged, cut off, over the worker's limits)
    or UnsupportedMedia. A file that is cut off may yield its blocks before the error does.
    """

    channels: int
    """Channels of the file, before mixing."""

    def __init__(self, worker: "_Worker", limits: MediaLimits):
        self._worker = worker
        self._limits = limits
        self._left = limits.timeout_seconds
        self.ended = False
        """Whether the worker is done with the file, and free for the next."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Samples:
        if self.ended:
            raise StopAsyncIteration
        kind, payload = await self._receive()
        if kind == Kind.BLOCK:
            return np.frombuffer(payload, "<f4")
        self.ended = True
        end: End = json.loads(payload)
        if end["corrupt_packets"]:
            logger.warning("damaged packets of a recording were left out", extra=end)
        raise StopAsyncIteration

    async def read_info(self) -> None:
        """Waits until the worker has opened the file. Raises ServingError when it cannot."""
        _, payload = await self._receive()
        info: Info = json.loads(payload)
        self.channels = info["channels"]

    async def _receive(self) -> tuple[bytes, bytes]:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self._left):
                kind, payload = await self._worker.receive()
        except TimeoutError:
            raise Unprocessable(
                f"the audio takes longer to decode than {self._limits.timeout_seconds:g} s, the limit here "
                "(DECODE_TIMEOUT_SECONDS)",
                code="decode_timeout",
            ) from None
        except (EOFError, OSError) as error:
            logger.warning("a decoder process ended in the middle of a file: %r", error)
            raise Unprocessable(
                "the audio cannot be decoded: its decoder stopped, because the file is damaged or takes more than "
                f"{self._limits.memory_bytes} bytes of memory, the limit here (DECODE_MEMORY_BYTES)",
                code="decoder_died",
            ) from None
        self._left -= clock() - started
        if kind == Kind.REFUSED:
            raise self._refusal(json.loads(payload))
        return kind, payload

    def _refusal(self, refusal: Refusal) -> ServingError:
        self.ended = not refusal["fatal"]
        message = refusal["message"]
        if refusal["code"] == "decoder_memory":
            message += f": more than {self._limits.memory_bytes} bytes, the limit here (DECODE_MEMORY_BYTES)"
        return BY_STATUS[refusal["status"]](message, code=refusal["code"])


class DecoderPool:
    """Worker processes that decode, started once and replaced when they die.

    `start()` and `close()` belong to one event loop; `close()` comes after the last stream is closed.
    """

    def __init__(self, limits: MediaLimits):
        self._limits = limits
        # Free places, each with its worker; None where one has still to be started. The last used is the warmest.
        self._free: asyncio.LifoQueue[_Worker | None] = asyncio.LifoQueue()
        self._workers: set[_Worker] = set()
        self._replacements: set[asyncio.Task[None]] = set()
        self._waiting = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Starts the workers. Raises RuntimeError when one does not come up."""
        found = await asyncio.gather(*(self._spawn() for _ in range(self._limits.workers)), return_exceptions=True)
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
    async def open(self, file: BinaryIO, *, channel: int | None = None) -> AsyncGenerator[DecodedAudio, None]:
        """Decodes a recording, as far and as fast as it is read. Waits while all workers are busy.

        Leaving the context ends the decoding, wherever it is; the next file gets a healthy worker.

        Args:
            file: the recording, a file of the system that is not empty; its name and its position play no part.
            channel: the channel to take alone, counted from 0; None mixes all to their mean.

        Raises:
            Overloaded: too many files wait already.
            InvalidInput: a channel that the file does not have.
            TooLarge: longer than the limit by its own header, or too many channels.
            UnsupportedMedia: no audio or video file, or of a kind that is not read.
            Unprocessable: no audio in it, damaged, cut off, or over the worker's limits.
        """
        limits = self._limits
        job = Job(channel=channel, max_seconds=limits.max_audio_seconds, max_channels=limits.max_channels)
        worker = await self._hire(job, file.fileno())
        audio = DecodedAudio(worker, limits)
        try:
            await audio.read_info()
            yield audio
        finally:
            self._release(worker, reusable=audio.ended)

    async def _hire(self, job: Job, descriptor: int) -> "_Worker":
        """A worker that has begun the job."""
        worker = await self._wait_for_place()
        try:
            if worker is None or not worker.begin(job, descriptor):
                if worker is not None:  # it died while it was free
                    await self._end(worker)
                worker = await self._spawn()
                if not worker.begin(job, descriptor):
                    raise RuntimeError("a decoder process died as it was started")
        except BaseException:
            self._free.put_nowait(None)
            raise
        return worker

    async def _wait_for_place(self) -> "_Worker | None":
        """A free place out of `_free`. Raises Overloaded."""
        if self._free.empty() and self._waiting >= self._limits.queue:
            raise Overloaded(
                f"all decoders are busy, and as many recordings wait as may: {self._waiting}, the limit here (DECODE_QUEUE)",
                code="decoders_busy",
            )
        self._waiting += 1
        try:
            with telemetry.DECODE_QUEUE_LENGTH.track_inprogress():
                return await self._free.get()
        finally:
            self._waiting -= 1

    def _release(self, worker: "_Worker", *, reusable: bool) -> None:
        if reusable:
            self._free.put_nowait(worker)
            return
        worker.kill()
        task = asyncio.create_task(self._replace(worker))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replace(self, worker: "_Worker") -> None:
        new: _Worker | None = None
        try:
            await self._end(worker)
            new = await self._spawn()
        except (OSError, RuntimeError):
            logger.exception("a decoder process cannot be replaced; the next file tries again")
        finally:
            self._free.put_nowait(new)

    async def _spawn(self) -> "_Worker":
        worker = await _Worker.start(self._limits.memory_bytes)
        self._workers.add(worker)
        return worker

    async def _end(self, worker: "_Worker") -> None:
        await worker.end()
        self._workers.discard(worker)


class _Worker:
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

    @classmethod
    async def start(cls, memory_bytes: int) -> Self:
        """Starts a process and waits until it can take a job. Raises RuntimeError, or OSError from the start itself."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "transformers_pre.audio.decoder", str(os.getpid()), str(memory_bytes)),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the pod, which lets its requests end
                cwd=_ROOT,
                env=environment | _WORKER_ENVIRONMENT,
            )
            on_failure.pop_all()
        # The pool writes jobs past the stream: a descriptor goes beside them, and a free worker's socket is empty.
        control = ours.dup()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        worker = cls(process, control, reader, writer)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await worker.receive()
        except (TimeoutError, EOFError, OSError) as error:
            await worker.end()
            raise RuntimeError("a decoder process does not start; its own output says why") from error
        except BaseException:
            await worker.end()
            raise
        return worker

    def begin(self, job: Job, descriptor: int) -> bool:
        """Hands a free worker a job; False when the process has died."""
        try:
            socket.send_fds(self._control, [json.dumps(job).encode()], [descriptor])
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def receive(self) -> tuple[bytes, bytes]:
        """The next message. Raises EOFError or OSError when the process is gone or talks nonsense."""
        kind, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        if size > MAX_PAYLOAD_BYTES:
            raise OSError("a message is longer than the protocol allows")
        return kind, await self._reader.readexactly(size)

    def kill(self) -> None:
        """Ends the process at once; `end()` waits for that."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._writer.transport.abort()
        self._control.close()

    async def end(self) -> None:
        """Ends the process and waits until it is gone."""
        self.kill()
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
