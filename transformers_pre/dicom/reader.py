"""`StudyReader`: an upload in, the volume and a report of every decision out.

The order of things and the worker processes that do them are here; what is in a file only those find out
(`transformers_pre.dicom.worker`), and what a file does to one never reaches this process. Not here: where uploads come from.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from serving import telemetry
from serving.contracts.ct_volume import SHAPE
from serving.errors import BY_STATUS, InvalidInput, Overloaded, ServingError, TooLarge, Unprocessable
from serving.threads import in_thread
from serving.workers.pool import Worker, WorkerPool
from serving.workers.wire import REFUSED, Refusal
from transformers_pre.dicom import geometry, report, series
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.records import SLICES, Entry, Found, Slice, Source, slice_from_json, slice_to_json
from transformers_pre.dicom.report import InputReport
from transformers_pre.dicom.syntaxes import DEFLATED

logger = logging.getLogger(__name__)

VOLUME_BYTES: Final = 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]
_SNIFFED_BYTES = 512


@dataclass(frozen=True)
class Study:
    """One series, ready for the predictor."""

    volume: npt.NDArray[np.float32]
    """[240, 480, 480]: HU / 1000 in [-1, 1], axes z from feet to head, column towards the left, row towards the back."""
    report: InputReport
    """What was used of the upload, and how; it identifies nobody."""
    study_uid: str
    """StudyInstanceUID: for the answer, never for a log."""
    series_uid: str
    """SeriesInstanceUID: likewise."""


class StudyReader:
    """Reads studies, one at a time, with all of its worker processes.

    `start()` and `close()` belong to one event loop. Their memory is at most `StudyLimits.volumes` volumes, and what
    `StudyLimits.memory_bytes` allows each worker.
    """

    def __init__(self, limits: StudyLimits):
        self._limits = limits
        self._pool = WorkerPool(
            "transformers_pre.dicom.worker",
            workers=limits.workers,
            queue=limits.workers,
            memory_bytes=limits.memory_bytes + VOLUME_BYTES,
            overloaded=self._overloaded,
        )
        self._places = asyncio.Semaphore(limits.volumes)
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Starts the workers. Raises RuntimeError when one does not come up."""
        await self._pool.start()

    async def close(self) -> None:
        """Ends the workers, whatever they are doing."""
        await self._pool.close()

    async def read(
        self, file: BinaryIO, *, parts: Sequence[tuple[int, int]] | None = None, series_uid: str | None = None
    ) -> Study:
        """As `reading`, for a caller who has a place for the volume."""
        async with self.reading(file, parts=parts, series_uid=series_uid) as study:
            return study

    @contextlib.asynccontextmanager
    async def reading(
        self, file: BinaryIO, *, parts: Sequence[tuple[int, int]] | None = None, series_uid: str | None = None
    ) -> AsyncGenerator[Study, None]:
        """Reads one series, and keeps a place for its volume until the context is left.

        Waits while as many volumes are held as may, and while another study is read; cancelling ends the work.

        Args:
            file: the upload: a file of the system; its name and its position play no part. A ZIP, a tar, either gzipped, or a
                DICOM file.
            parts: offset and length of each DICOM file, where the upload is several, one behind the other.
            series_uid: SeriesInstanceUID of the series to take; None takes the best.

        Raises:
            Overloaded: too many studies wait already.
            InvalidInput: no archive and no DICOM file, a damaged archive, or a series that is not there.
            TooLarge: over a limit, which the message names.
            UnsupportedMedia: a transfer syntax that is not read.
            Unprocessable: no volume in it, or one that cannot be trusted; over the workers' limits.
        """
        async with contextlib.AsyncExitStack() as place:
            await self._admit(place)
            try:
                async with asyncio.timeout(self._limits.timeout_seconds):
                    study = await self._read(file, parts, series_uid)
            except TimeoutError:
                raise Unprocessable(
                    f"the study takes longer to read than {self._limits.timeout_seconds:g} s, the limit here "
                    "(DECODE_TIMEOUT_SECONDS)",
                    code="decode_timeout",
                ) from None
            finally:
                self._turn.release()
            yield study

    async def _admit(self, place: contextlib.AsyncExitStack) -> None:
        """Waits for a place, which `place` gives back, and for the turn, which the caller does. Raises Overloaded."""
        if self._places.locked() and self._waiting >= self._limits.queue:
            raise self._overloaded()
        self._waiting += 1
        try:
            with telemetry.STUDY_QUEUE_LENGTH.track_inprogress():
                await place.enter_async_context(self._places)
                await self._turn.acquire()
        finally:
            self._waiting -= 1

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"a study is being read, and as many wait as may: {self._limits.queue}, the limit here (STUDY_QUEUE)",
            code="readers_busy",
        )

    async def _read(self, file: BinaryIO, parts: Sequence[tuple[int, int]] | None, series_uid: str | None) -> Study:
        with tempfile.TemporaryFile() as scratch:
            job = _StudyJob(self._pool, self._limits, file.fileno(), scratch.fileno())
            source = await job.source(parts)
            slices, dropped = await job.scan(source)
            if not slices and set(dropped) <= {"not a DICOM file"}:
                raise InvalidInput(
                    f"there is no DICOM file among the {dropped.total()} files of the upload", code="no_dicom"
                )
            choice = series.choose(
                slices,
                dropped,
                min_slices=self._limits.min_slices,
                series_uid=series_uid,
                other_body_parts=self._limits.other_body_parts,
            )
            series.check_size(choice.slices, self._limits.max_decoded_bytes)
            choice = await job.without_duplicates(choice, self._limits.min_slices)
            choice.slices = await job.readable(choice.slices)
            stack = geometry.stack(choice.slices, self._limits)
            volume = await job.render(stack)
        return Study(
            volume,
            report.describe(choice, stack, received=len(slices) + dropped.total()),
            choice.slices[0].study,
            choice.slices[0].series,
        )


class _StudyJob:
    """What the workers do for one study."""

    def __init__(self, pool: WorkerPool, limits: StudyLimits, file: int, scratch: int):
        self._pool = pool
        self._limits = limits
        self._file = file
        self._scratch = scratch
        self._limits_json = asdict(limits)
        self._images = 0
        self._checked: set[int] = set()
        """Files that are read by position and have the checksum that they should."""

    async def source(self, parts: Sequence[tuple[int, int]] | None) -> Source:
        """How the upload is wrapped; a gzip is unpacked for that. Raises InvalidInput."""
        if parts is not None:
            return self._source("files", parts=list(parts))
        size = os.fstat(self._file).st_size
        head = os.pread(self._file, _SNIFFED_BYTES, 0)
        zipped = head[:2] == b"\x1f\x8b"
        if zipped:
            await self._do("unpack_gzip", {"limits": self._limits_json})
            size = os.fstat(self._scratch).st_size
            head = os.pread(self._scratch, _SNIFFED_BYTES, 0)
        if head[257:262] == b"ustar":
            return self._source("tar", scratch=zipped)
        if head[128:132] == b"DICM":
            return self._source("files", parts=[(0, size)], scratch=zipped)
        if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") and not zipped:
            return self._source("zip")
        raise InvalidInput(
            "the upload is neither a ZIP, a tar or tar.gz of DICOM files nor a DICOM file"
            if size
            else "the upload is empty: it has 0 bytes",
            code="not_an_archive",
        )

    def _source(
        self, kind: Literal["zip", "tar", "files"], *, parts: list[tuple[int, int]] | None = None, scratch: bool = False
    ) -> Source:
        return Source(kind=kind, parts=parts or [], limits=self._limits_json, scratch=scratch)

    async def scan(self, source: Source) -> tuple[list[Slice], Counter[str]]:
        """All CT images of the upload, and how many files hold none, by reason."""
        shares = self._limits.workers
        scans = await _together([self._scan(source, share, shares) for share in range(shares)])
        dropped: Counter[str] = Counter()
        for _, found in scans:
            dropped.update(found["dropped"])
        slices = [image for part, _ in scans for image in part]
        slices.sort(key=lambda image: (image.entry.number, image.frame))
        return slices, dropped

    async def _scan(self, source: Source, share: int, shares: int) -> tuple[list[Slice], Found]:
        found: list[Slice] = []
        job = {"job": "scan", "source": source, "share": share, "shares": shares}
        async with self._pool.hire(job, [self._file, self._scratch]) as worker:
            while True:
                kind, payload = await self._receive(worker)
                if kind != SLICES:
                    outcome: Found = json.loads(payload)
                    return found, outcome
                found += await in_thread(self._counted, payload)

    def _counted(self, payload: bytes) -> list[Slice]:
        """The slices of a message. Raises TooLarge when all files together have more than may be: each alone may have as many."""
        found = json.loads(payload)
        self._images += len(found)
        if self._images > self._limits.max_files:
            raise TooLarge(
                f"the upload has more than {self._limits.max_files} images, frames of multi-frame files included, the limit here "
                "(MAX_FILES)",
                code="too_many_files",
            )
        return [slice_from_json(fields) for fields in found]

    async def without_duplicates(self, choice: series.Choice, min_slices: int) -> series.Choice:
        """Without images that show the same at the same place. Raises Unprocessable for those that do not."""
        groups = geometry.coincident(choice.slices)
        if not groups:
            return choice
        images = [choice.slices[number] for group in groups for number in group]
        images = await self.readable(images)
        digests = iter(
            await self._do(
                "digest", {"slices": [slice_to_json(image) for image in images], "limits": self._limits_json}
            )
        )
        extra: set[int] = set()
        for group in groups:
            if len({next(digests) for _ in group}) > 1:
                raise Unprocessable(
                    f"{len(group)} images of the series lie at the same place and differ: files "
                    f"{geometry.files_of(choice.slices[number] for number in group)} of the upload; it may hold several phases "
                    "or reconstructions",
                    code="conflicting_slices",
                )
            extra.update(group[1:])
        choice.slices = [image for number, image in enumerate(choice.slices) if number not in extra]
        choice.dropped["a duplicate"] += len(extra)
        if len(choice.slices) < min_slices:
            raise series.too_few(len(choice.slices), choice.dropped, min_slices)
        return choice

    async def readable(self, slices: list[Slice]) -> list[Slice]:
        """The same with frames of compressed files unpacked to where they can be read by position.

        Raises InvalidInput for a file whose checksum is wrong: those that are read as a whole are checked then.
        """
        moved: dict[int, Entry] = {}
        for image in slices:
            entry = image.entry
            if image.frames == 1 or image.syntax == DEFLATED:
                continue
            if entry.crc is not None and not entry.deflated and entry.number not in self._checked:
                await self._do("check_crc", {"entry": asdict(entry)})
                self._checked.add(entry.number)
            if entry.deflated and entry.number not in moved:
                start = os.fstat(self._scratch).st_size
                await self._do("unpack", {"entry": asdict(entry)})
                moved[entry.number] = Entry(entry.number, start, entry.size, entry.size, scratch=True)
        return [replace(image, entry=moved.get(image.entry.number, image.entry)) for image in slices]

    async def render(self, stack: geometry.Stack) -> npt.NDArray[np.float32]:
        """The volume, made by all workers in memory that they share with this process."""
        plan = await in_thread(stack.plan)
        planes = SHAPE[plan["axes"][0]]
        first, count = plan["stack"]["first"], len(plan["stack"]["low"])
        # Padding costs little: what the images give is shared out evenly.
        bounds = [first + count * share // self._limits.workers for share in range(1, self._limits.workers)]
        bounds = [0, *bounds, planes]
        memory = os.memfd_create("volume")
        try:
            os.ftruncate(memory, VOLUME_BYTES)
            mapped = mmap.mmap(memory, VOLUME_BYTES)
            jobs = [
                self._do("render", {"plan": plan, "begin": begin, "end": end, "limits": self._limits_json}, memory)
                for begin, end in itertools.pairwise(bounds)
                if begin < end
            ]
            await _together(jobs)
        finally:
            os.close(memory)
        return np.frombuffer(mapped, np.float32).reshape(SHAPE)

    async def _do(self, name: str, arguments: dict[str, Any], *descriptors: int) -> Any:
        """The outcome of a job. Raises ServingError."""
        job = {"job": name, **arguments}
        async with self._pool.hire(job, [self._file, self._scratch, *descriptors]) as worker:
            _, payload = await self._receive(worker)
            return json.loads(payload)

    async def _receive(self, worker: Worker) -> tuple[bytes, bytes]:
        """The next message; the last one frees the worker. Raises ServingError."""
        try:
            kind, payload = await worker.receive()
        except (EOFError, OSError) as error:
            logger.warning("a worker process ended in the middle of a study: %r", error)
            raise Unprocessable(
                "the study cannot be read: its decoder stopped, because an image is damaged or takes more than "
                f"{self._limits.memory_bytes} bytes of memory, the limit here (DECODE_MEMORY_BYTES)",
                code="decoder_died",
            ) from None
        if kind == REFUSED:
            refusal: Refusal = json.loads(payload)
            worker.done = not refusal["fatal"]
            raise self._refused(refusal)
        worker.done = kind != SLICES
        return kind, payload

    def _refused(self, refusal: Refusal) -> ServingError:
        message = refusal["message"]
        if refusal["code"] == "decoder_memory":
            message += f": more than {self._limits.memory_bytes} bytes, the limit here (DECODE_MEMORY_BYTES)"
        return BY_STATUS[refusal["status"]](message, code=refusal["code"])


async def _together(jobs: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The outcomes of jobs that run side by side; the first failure ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
