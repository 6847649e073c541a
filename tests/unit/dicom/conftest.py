"""One study reader for the tests of a file, and what they compare with."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pytest

from tests import ct_series
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.reader import Study, StudyReader


class Reading:
    """A reader on an event loop in a thread of its own."""

    def __init__(self, limits: StudyLimits):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._reader = self._call(self._make(limits))

    async def _make(self, limits: StudyLimits) -> StudyReader:
        reader = StudyReader(limits)
        await reader.start()
        return reader

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __call__(self, file: BinaryIO, **how: Any) -> Study:
        """What `StudyReader.read` gives; the file is closed."""
        with file:
            study: Study = self._call(self._reader.read(file, **how))
        return study

    def close(self) -> None:
        self._call(self._reader.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def read() -> Iterator[Reading]:
    """Reads uploads with two workers and the usual limits."""
    reading = Reading(StudyLimits())
    yield reading
    reading.close()


@pytest.fixture(scope="session")
def expected() -> npt.NDArray[np.float32]:
    """The volume of the usual series, by the reference."""
    from tests import ct_reference  # imports torch, which most tests here do without

    images = ct_series.scan()
    hu = np.stack([ct_series.hounsfield(image) for image in images])
    return ct_reference.volume(hu, (3.0, 2.0, 2.0)).astype(np.float32)
