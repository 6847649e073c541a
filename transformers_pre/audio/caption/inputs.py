"""Recordings inside JSON as callers of captioning services send them: base64, a `data:` URL or a link, as the text tells."""

import re
from typing import Any, BinaryIO

from serving.errors import InvalidInput
from serving.uploads import inline
from serving.uploads.fetch import fetch
from serving.uploads.settings import UploadSettings

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_LINK = re.compile(r"https?://", re.IGNORECASE)
_ACCEPTED = "base64, a data: URL in base64, or an http(s) link"


async def recording(value: Any, where: str, settings: UploadSettings) -> BinaryIO:
    """The recording that a field holds; the caller closes it.

    Args:
        value: a text, or an object with it in `data`, whose `format` is not read: recordings are told by their bytes.
        where: the field, for refusals.
        settings: limits.

    Raises:
        InvalidInput: none of these, or empty.
        ServingError: as `fetch` and `inline.from_base64` do.
    """
    if isinstance(value, dict):
        value, where = value.get("data"), f"{where}.data"
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{where} must be {_ACCEPTED}", param=where)
    text = value.strip()
    if _LINK.match(text):
        return await fetch(text, settings.fetch_limits())
    if (head := _DATA_URL.match(text)) is not None:
        text = text[head.end() :]
    elif text[:5].lower() == "data:":
        raise InvalidInput(f"{where} is a data: URL without ;base64, it must be {_ACCEPTED}", param=where)
    return await inline.from_base64(text, settings.max_upload_bytes, where)
