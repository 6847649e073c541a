"""Studies at a DICOMweb server: WADO-RS (PS3.18, 10.4), the address of a study or a series, fetched past the links' guard."""

import re
from typing import BinaryIO, Final

from serving.errors import InvalidInput
from serving.uploads.related import fetch_parts
from transformers_pre.dicom.settings import DicomSettings

ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Files as the server has them: what it would transcode, the reader decodes as well."""
_UID = r"(?=[0-9.]{1,64}(/|$))[0-9]+(\.[0-9]+)*"
_RESOURCE = rf"/studies/{_UID}(/series/{_UID})?/?"


async def fetch(url: str, settings: DicomSettings) -> tuple[BinaryIO, tuple[range, ...]]:
    """The files of a study or series, one behind the other, and each one's bytes; the caller closes the file.

    Raises:
        ServingError: as `fetch_parts` does; InvalidInput where DICOMWEB is off, or for another address.
    """
    if not settings.dicomweb:
        raise InvalidInput(
            "this pod fetches nothing from DICOMweb servers (DICOMWEB)", code="no_dicomweb", param="dicomweb"
        )
    root = settings.dicomweb_root.rstrip("/")
    if not re.fullmatch((re.escape(root) or "[^?#]*") + _RESOURCE, url, re.ASCII):
        here = root or "…"
        raise InvalidInput(
            f"dicomweb must be the address of a study or series: {here}/studies/UID or {here}/studies/UID/series/UID",
            code="bad_url",
            param="dicomweb",
        )
    authorization = settings.dicomweb_authorization.get_secret_value()
    return await fetch_parts(url, ACCEPT, settings.fetch_limits(), settings.form_limits(), authorization)
