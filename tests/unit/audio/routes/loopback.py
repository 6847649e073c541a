"""A pod with the public routes on a loopback socket, in the test's own process, and clients for it.

The transcriber is a fake: what a recording becomes is tested where it is real. Middleware, error bodies and server are not.
"""

import asyncio
import contextlib
import io
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
from pydantic import TypeAdapter

from serving.contracts.asr import Word
from serving.middleware import Drain
from tests.unit.serving.uploads.spooling import content, named, spooled
from transformers_pre.audio.merge import Transcript, TranscriptSegment
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.source import Waveform
from transformers_pre.audio.transcribe import TranscriptionRequest

LIMIT = 1 << 20
RECORDING = b"RIFF" + bytes(range(256)) * 40


def segment(number: int, text: str, *, words: bool) -> TranscriptSegment:
    start = 2.0 * number
    return TranscriptSegment(
        id=number,
        seek=0,
        start=start,
        end=start + 1.5,
        text=text,
        tokens=[number, 7, 8],
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=1.2,
        no_speech_prob=0.01,
        words=[Word(word=text, start=start, end=start + 1.5, probability=0.9)] if words else None,
    )


class FakeTranscriber:
    """Says `texts`, one a segment, of any recording; notes what it was asked and what became of it."""

    def reset(self) -> None:
        self.texts = ["Hello there.", " Grüße!", " 你好 --> 5 < 6."]
        self.requests: list[TranscriptionRequest] = []
        self.headers: Mapping[str, str] = {}
        self.heard = b""
        self.error: Exception | None = None
        self.error_after = 0
        self.pauses_after: int | None = None
        self.resume = asyncio.Event()
        self.paused = asyncio.Event()
        self.closed = asyncio.Event()
        self.cancelled = False

    async def transcribe(self, request: TranscriptionRequest, headers: Mapping[str, str]) -> Transcript:
        async with contextlib.aclosing(self.stream(request, headers)) as items:
            *_, transcript = [item async for item in items]
        assert isinstance(transcript, Transcript)
        return transcript

    async def stream(
        self, request: TranscriptionRequest, headers: Mapping[str, str]
    ) -> AsyncIterator[TranscriptSegment | Transcript]:
        self.requests.append(request)
        self.headers = headers
        assert not isinstance(request.source, Waveform)
        self.heard = content(request.source)
        segments = [segment(number, text, words=request.words) for number, text in enumerate(self.texts)]
        try:
            for number, each in enumerate(segments):
                await self._event(number)
                yield each
            await self._event(len(segments))
            language = request.language or ("de" if segments else None)
            text = "".join(self.texts)
            yield Transcript(text=text, language=language, duration=6.04, task=request.task, segments=segments)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.closed.set()

    async def _event(self, number: int) -> None:
        if number == self.pauses_after:
            self.paused.set()
            await self.resume.wait()
        if self.error is not None and number == self.error_after:
            raise self.error


class LoopbackPod:
    """A server with the routes, and clients for it."""

    def __init__(self, address: str, transcriber: FakeTranscriber, settings: AudioSettings):
        self.fake = transcriber
        self.settings = settings
        self.ready = True
        self.http = httpx.AsyncClient(base_url=address, trust_env=False, timeout=60)
        self.openai = openai.AsyncOpenAI(api_key="key", base_url=f"{address}/v1", max_retries=0, timeout=60)
        self.address = address
        self.spool = Path(tempfile.gettempdir())
        self.drain = Drain()

    async def post(self, path: str = "/v1/audio/transcriptions", files: Any = None, **data: Any) -> httpx.Response:
        return await self.http.post(path, data=data, files={"file": ("a.wav", RECORDING)} if files is None else files)

    async def transcribe(self, **fields: Any) -> Any:
        return await self.openai.audio.transcriptions.create(file=io.BytesIO(RECORDING), model="whisper-1", **fields)

    def recordings(self) -> int:
        """How many recordings are on disk; none has a name there."""
        assert named(self.spool) == []
        return len(spooled(self.spool))

    async def leftovers(self) -> int:
        """Recordings on disk once nothing is in flight."""
        await self.drain.wait()
        return self.recordings()


def strictly(kind: Any, value: Any) -> Any:
    """The client builds its types without validating, so answers are validated here."""
    return TypeAdapter(kind).validate_python(value.model_dump(exclude_unset=True), strict=True)


def events(body: str) -> list[Any]:
    assert body.endswith("\n\n")
    lines = body.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines]
