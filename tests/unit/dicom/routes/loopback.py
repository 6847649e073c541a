"""A CT transformer with its public routes on a loopback socket, in the test's own process, and a client for it.

Reader, middleware, error bodies and server are real; the predictor is the contract's fake, behind no network.
"""

import asyncio
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from kserve import InferRequest, InferResponse

from serving.contracts import ct
from serving.contracts.ct import CtInput
from serving.deadline import Deadline
from serving.errors import ServingError
from serving.middleware import Drain
from serving.routes import BodyBudget
from serving.testing import FakeReader
from tests.ct_series import dicom, scan, zipped
from tests.unit.serving.uploads.spooling import named, spooled
from transformers_pre.dicom.reader import StudyReader
from transformers_pre.dicom.settings import DicomSettings

LIMIT = 1 << 20
JSON_LIMIT = 64 << 10
IMAGES = scan()
FILES = [dicom(image) for image in IMAGES]
ARCHIVE = zipped(FILES)
STUDY_UID, SERIES_UID = str(IMAGES[0].StudyInstanceUID), str(IMAGES[0].SeriesInstanceUID)
KEYS = {
    *("study_uid", "series_uid", "probability_of_pathology", "pathology", "most_dangerous_pathology_type"),
    *(
        "processing_status",
        "time_of_processing",
        "supervised_probabilities",
        "ctclip_probabilities",
        "top_shap_features",
    ),
}
"""Those of the original service."""


class FakePredictor:
    """`FakeReader` as the hop would have it; notes what it was asked, fails or waits as it is told."""

    model_name = "ct"

    def reset(self) -> None:
        self.asked: list[CtInput] = []
        self.headers: Mapping[str, str] = {}
        self.error: Exception | None = None
        self.waits = False
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def infer(self, request: InferRequest, headers: Mapping[str, str], deadline: Deadline) -> InferResponse:
        (item,) = ct.read_request(request)
        self.asked.append(
            CtInput(item.volume[:0], item.options, item.prompts)
        )  # without the volume, which is to be freed
        self.headers = headers
        if self.error is not None:
            raise self.error
        if self.waits:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        (result,) = await asyncio.to_thread(FakeReader().run, [item])
        assert not isinstance(result, ServingError)
        return ct.write_response([result], request, self.model_name)


class CtLoopback:
    """A server with the routes, and a client for it."""

    def __init__(self, address: str, predictor: FakePredictor, reader: StudyReader, settings: DicomSettings):
        self.fake = predictor
        self.reader = reader
        self.settings = settings
        self.http = httpx.AsyncClient(base_url=address, trust_env=False, timeout=250)
        self.spool = Path(tempfile.gettempdir())
        self.drain = Drain()
        self.bodies = BodyBudget(settings.max_bodies_bytes)

    async def post(self, *files: bytes, **fields: Any) -> httpx.Response:
        """A form with the archive, or with these files."""
        parts = [("file", ("IM0001", io.BytesIO(data))) for data in files or (ARCHIVE,)]
        return await self.http.post("/predict", files=parts, data=fields)

    async def answer(self, *files: bytes, **fields: Any) -> dict[str, Any]:
        """The body of an answer that is a success."""
        response = await self.post(*files, **fields)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        assert found["processing_status"] == "Success"
        return found

    async def refusal(self, response: httpx.Response) -> tuple[int, str]:
        """Status and code of a failure in the service's shape; nothing of the request is left."""
        body = response.json()
        assert body.keys() == KEYS | {"error", "code", "param"}
        assert (body["processing_status"], body["study_uid"], body["ctclip_probabilities"]) == ("Failure", None, {})
        assert await self.leftovers() == 0
        return response.status_code, body["code"]

    async def leftovers(self) -> int:
        """Files on disk once nothing is in flight; none has a name there."""
        await self.drain.wait()
        assert named(self.spool) == []
        return len(spooled(self.spool))
