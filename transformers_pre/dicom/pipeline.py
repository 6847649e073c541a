"""From an upload to what the predictor says of it: read the study, ask, draw; one `Reading` a study.

Every route and both protocols call this. Not here: how an upload arrived, and what an answer looks like (`answers`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from serving import telemetry
from serving.contracts import ct
from serving.contracts.ct import CtInput, CtOptions, CtResult
from serving.deadline import CURRENT, Deadline
from serving.errors import InternalError
from serving.hop import PredictorClient
from serving.threads import in_thread
from transformers_pre.dicom import overlay
from transformers_pre.dicom.overlay import Overlay
from transformers_pre.dicom.reader import StudyReader
from transformers_pre.dicom.report import InputReport

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StudyRequest:
    """One study, and what is to be read from it."""

    source: BinaryIO | Volume
    """The upload; or a volume as the contract has it, which is passed on."""
    options: CtOptions
    parts: Sequence[tuple[int, int]] | None = None
    """Offset and length of each file, of an upload of several."""
    series_uid: str | None = None
    """The series to take; None for the best."""
    prompts: tuple[str, ...] = ()
    draw: bool = True
    """Whether an explanation is drawn; it is numbers as well."""


@dataclass(frozen=True)
class Identity:
    """What the study is, for the answer alone; no log, metric or trace has it."""

    study_uid: str
    series_uid: str


@dataclass(frozen=True, eq=False)
class Reading:
    """What came of a study. It holds no volume."""

    result: CtResult
    seconds: float
    """From the whole upload to the result, waits included."""
    report: InputReport | None
    """None where a volume came ready."""
    identity: Identity | None
    overlays: tuple[Overlay, ...] = ()
    """Pictures, of the findings with the highest logits; none unless they were asked for."""


class Pipeline:
    """Reads studies with one `StudyReader` and one predictor.

    Args:
        client: the predictor.
        reader: what makes volumes; it also bounds how many there are.
        request_seconds: deadline of a call that is no request's.
        max_overlays: most pictures of a reading (EXPLAIN_FINDINGS).
    """

    def __init__(self, client: PredictorClient, reader: StudyReader, *, request_seconds: float, max_overlays: int):
        self._client = client
        self._reader = reader
        self._request_seconds = request_seconds
        self._max_overlays = max_overlays

    async def read(self, request: StudyRequest, headers: Mapping[str, str]) -> Reading:
        """What the predictor says of a study. Cancelling it ends the work and frees the volume.

        Raises:
            ServingError: as `StudyReader.reading` and `PredictorClient.infer`; by the deadline at the latest.
        """
        begun = time.monotonic()
        deadline = CURRENT.get() or Deadline(self._request_seconds)
        async with deadline.enforced():
            if isinstance(request.source, np.ndarray):
                result, drawn = await self._ask(request.source, request, headers, deadline)
                return Reading(result, time.monotonic() - begun, None, None, drawn)
            reading = self._reader.reading(request.source, parts=request.parts, series_uid=request.series_uid)
            async with reading as study:
                telemetry.STUDY_READ_SECONDS.observe(time.monotonic() - begun)
                result, drawn = await self._ask(study.volume, request, headers, deadline)
                identity = Identity(study.study_uid, study.series_uid)
                return Reading(result, time.monotonic() - begun, study.report, identity, drawn)

    async def _ask(
        self, volume: Volume, request: StudyRequest, headers: Mapping[str, str], deadline: Deadline
    ) -> tuple[CtResult, tuple[Overlay, ...]]:
        item = CtInput(volume, request.options, request.prompts)
        answer = await self._client.infer(ct.write_request([item], self._client.model_name), headers, deadline)
        try:
            (result,) = ct.read_response(answer)
            drawn: tuple[Overlay, ...] = ()
            if result.shares is not None and request.draw:
                drawn = await in_thread(overlay.draw, volume, result.shares, self._max_overlays)
        except (KeyError, ValueError):
            raise InternalError from None
        return result, drawn
