"""A media container that comes while it is made, such as a browser's WebM or Opus: bytes in, samples out as they are decoded.

Each has a worker process of its own for as long as it lasts; recordings have others (`media`), so that neither waits for the
other. The worker asks for every piece: only while it works on one does its time count, and what it has not asked for yet
its client keeps.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from serving.errors import Overloaded
from serving.workers.pool import Worker, WorkerPool
from transformers_pre.audio.inlet import Inlet
from transformers_pre.audio.media import DecodedAudio, MediaLimits, Samples
from transformers_pre.audio.wire import MAX_PIECE_BYTES, Job, Kind

_PIECES_WAITING = 4


class LiveAudio(DecodedAudio):
    """As `DecodedAudio`, in blocks of a tenth of a second, of a container that comes piece by piece.

    Args:
        worker: has begun the job.
        limits: DECODE_TIMEOUT_SECONDS is for each piece.
        ours: the end of the socket that the worker reads from the other one of.
        pieces: gives the next bytes, None at the end.
    """

    def __init__(
        self, worker: Worker, limits: MediaLimits, ours: socket.socket, pieces: Callable[[], Awaitable[bytes | None]]
    ):
        super().__init__(worker, limits)
        self._ours = ours
        self._pieces = pieces

    async def _receive(self) -> tuple[bytes, bytes]:
        while True:
            kind, payload = await super()._receive()
            if kind == Kind.MORE:
                await self._feed()
            elif kind != Kind.INFO:
                return kind, payload

    async def _feed(self) -> None:
        piece = await self._pieces()
        self._left = self._limits.timeout_seconds
        if piece is None:
            self._ours.close()
            return
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # of a worker that died: what it sends next says so
            await asyncio.get_running_loop().sock_sendall(self._ours, piece)


class ContainerPool(WorkerPool):
    """Decoders of live containers, each started with the first that needs it. As many as there are connections at a time."""

    def __init__(self, connections: int, limits: MediaLimits):
        super().__init__(
            "transformers_pre.audio.decoder",
            workers=connections,
            queue=0,
            memory_bytes=limits.memory_bytes,
            overloaded=lambda: Overloaded(
                f"there are {connections} live connections that send containers already, the limit here "
                "(STREAM_DECODERS); send raw samples, or come again later",
                code="too_many_containers",
            ),
            lazy=True,
        )
        self._limits = limits

    @contextlib.asynccontextmanager
    async def decode(self, pieces: Callable[[], Awaitable[bytes | None]]) -> AsyncGenerator[LiveAudio, None]:
        """Decodes what `pieces` gives, packets of at most `MAX_PIECE_BYTES`, all channels mixed. Raises Overloaded."""
        job = Job(live=True, channel=None, max_seconds=0.0, max_channels=self._limits.max_channels)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            async with AsyncExitStack() as stack:
                with theirs:  # the worker has its own of it by then
                    worker = await stack.enter_async_context(self.hire(job, [theirs.fileno()]))
                yield LiveAudio(worker, self._limits, ours, pieces)


class ContainerStream:
    """One connection's container. Use as a context manager; entering it raises Overloaded, leaving it stops everything.

    Args:
        pool: of decoders.
        deliver: takes each block, float32 [n] at 16 kHz in [-1, 1]; the decoder waits for it.
    """

    def __init__(self, pool: ContainerPool, deliver: Callable[[Samples], Awaitable[None]]):
        self._pool = pool
        self._deliver = deliver
        self._pieces: Inlet[bytes] = Inlet(_PIECES_WAITING)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        audio = await self._stack.enter_async_context(self._pool.decode(self._pieces.get))
        self._pieces.start(self._run(audio))
        self._stack.push_async_callback(self._pieces.stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def push(self, data: bytes) -> None:
        """Takes the next bytes; waits while enough is waiting. Raises ServingError for what was found wrong so far.

        What follows the end of the container, such as tags, is not heard; in Ogg and WebM, where nothing belongs there, more
        than a header's worth of it is damage, which `finish` tells.
        """
        for start in range(0, len(data), MAX_PIECE_BYTES):
            await self._pieces.put(data[start : start + MAX_PIECE_BYTES])

    async def finish(self) -> None:
        """The container ends here: waits until all of it is delivered. Raises ServingError."""
        await self._pieces.finish()

    async def _run(self, audio: LiveAudio) -> None:
        async for block in audio:
            await self._deliver(block)
