"""Recordings in any container and codec, decoded by a pool of worker processes into a stream of 16 kHz mono blocks.

The pool knows processes, limits and back-pressure; what is in a file only its workers find out
(`transformers_pre.audio.decoder`), and what a file does to one never reaches this process. Not here: where files come from,
speech.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from serving import telemetry
from serving.errors import BY_STATUS, Overloaded, ServingError, Unprocessable
from serving.workers.pool import Worker, WorkerPool
from serving.workers.wire import REFUSED, Refusal
from transformers_pre.audio.wire import SAMPLE_RATE, End, Info, Job, Kind

__all__ = ["SAMPLE_RATE", "DecodedAudio", "DecoderPool", "MediaLimits"]

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]


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

    def __init__(self, worker: Worker, limits: MediaLimits):
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
        self.ended = self._worker.done = True
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
        if kind == REFUSED:
            raise self._refusal(json.loads(payload))
        return kind, payload

    def _refusal(self, refusal: Refusal) -> ServingError:
        self.ended = self._worker.done = not refusal["fatal"]
        message = refusal["message"]
        if refusal["code"] == "decoder_memory":
            message += f": more than {self._limits.memory_bytes} bytes, the limit here (DECODE_MEMORY_BYTES)"
        return BY_STATUS[refusal["status"]](message, code=refusal["code"])


class DecoderPool(WorkerPool):
    """Worker processes that decode, started once and replaced when they die.

    `start()` and `close()` belong to one event loop; `close()` comes after the last stream is closed.
    """

    def __init__(self, limits: MediaLimits):
        super().__init__(
            "transformers_pre.audio.decoder",
            workers=limits.workers,
            queue=limits.queue,
            memory_bytes=limits.memory_bytes,
            overloaded=lambda: Overloaded(
                "all decoders are busy, and as many recordings wait as may: "
                f"{limits.queue}, the limit here (DECODE_QUEUE)",
                code="decoders_busy",
            ),
            waiting=telemetry.DECODE_QUEUE_LENGTH,
        )
        self._limits = limits

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
        job = Job(live=False, channel=channel, max_seconds=limits.max_audio_seconds, max_channels=limits.max_channels)
        async with self.hire(job, [file.fileno()]) as worker:
            audio = DecodedAudio(worker, limits)
            await audio.read_info()
            yield audio
