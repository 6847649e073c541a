"""Studies at a DICOMweb server: WADO-RS (PS3.18, 10.4), the address of a study or a series, fetched past the links' guard."""

import re
from typing import BinaryIO, Final

from serving.errors import InvalidInput
from serving.uploads.related import fetch_parts
from transformers_pre.dicom.settings import DicomSettings

ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Files as the server has them: what it would transcode, the reader decodes as well."""
_UID = r"[0-9.]{1,64}"
_PATH = re.compile(rf"[^?#]*/studies/{_UID}(/series/{_UID})?/?", re.ASCII)


async def fetch(url: str, settings: DicomSettings) -> tuple[BinaryIO, tuple[range, ...]]:
    """The files of a study or series, one behind the other, and each one's bytes; the caller closes the file.

    Raises:
        ServingError: as `fetch_parts` does; InvalidInput where DICOMWEB is off, or for another address.
    """
    if not settings.dicomweb:
        raise InvalidInput(
            "this pod fetches nothing from DICOMweb servers (DICOMWEB)", code="no_dicomweb", param="dicomweb"
        )
    if not _PATH.fullmatch(url):
        raise InvalidInput(
            "dicomweb must be the address of a study or series: …/studies/UID or …/studies/UID/series/UID",
            code="bad_url",
            param="dicomweb",
        )
    return await fetch_parts(url, ACCEPT, settings.fetch_limits(), settings.form_limits())
