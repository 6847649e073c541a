"""API keys: optional, several, from a setting or a mounted file."""

import contextlib
import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from serving.errors import Unauthorized


class Keys:
    """The keys that open this pod.

    Args:
        keys: keys separated by commas; empty for none.
        file: a file with one key a line (lines starting with `#` are comments), read again when it changes, so that a
            Secret can be rotated without a restart.

    Raises:
        ValueError: the file cannot be read, `keys` holds none, or a key has characters that an HTTP header cannot carry
            unchanged.
    """

    def __init__(self, keys: str = "", file: Path | None = None):
        self._fixed = _digests(keys.split(","))
        if keys and not self._fixed:  # such as "$A,$B" with two empty variables: not the wish for an open pod
            raise ValueError("API_KEYS is set and holds no key: list keys, separated by commas, or leave it unset")
        self._file = file
        self._from_file: list[bytes] = []
        self._stamp: tuple[int, int] | None = None
        if file is not None:
            try:
                self._refresh(file)
            except OSError as error:
                raise ValueError(f"API_KEYS_FILE cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ValueError("API_KEYS_FILE cannot be read: it is not UTF-8") from None

    def check(self, authorization: str | None) -> None:
        """Passes if there are no keys, or if the header `Authorization` carries one. Raises Unauthorized."""
        if not self._fixed and self._file is None:
            return
        if self._file is not None:
            # A Secret is swapped by renaming: the keys read last stay in force until the new file is there and whole.
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self._refresh(self._file)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized(
                "an API key is needed: send the header 'Authorization: Bearer <key>'", code="missing_api_key"
            )
        given = _digest(key)
        # Every key is compared, and digests have one length: the time taken says nothing about the keys.
        matches = [hmac.compare_digest(given, known) for known in (*self._fixed, *self._from_file)]
        if not any(matches):
            raise Unauthorized("this API key is not known")

    def _refresh(self, file: Path) -> None:
        status = file.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            lines = file.read_text().splitlines()
            self._from_file, self._stamp = _digests(line for line in lines if not line.startswith("#")), stamp


def _digests(keys: Iterable[str]) -> list[bytes]:
    found = [key for key in keys if key.strip()]
    if not all(key.isascii() for key in found):
        raise ValueError("API keys must be ASCII")
    return [_digest(key) for key in found]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.strip().encode()).digest()
