"""Uploads that are made to harm: each costs its sender a refusal, the pod little time and memory, and no worker.

What a study may be is in `test_study_limits`, what archives lie about in `test_archives`, what is left behind in `test_privacy`.
"""

import contextlib
import gzip
import io
import struct
import tarfile
import time
from collections.abc import Callable

import imagecodecs
import numpy as np
import psutil
import pytest
from pydicom.uid import JPEG2000Lossless

from serving.errors import InvalidInput, ServingError, TooLarge
from tests.children import children
from tests.ct_series import dicom, scan, stored, zipped
from tests.pods import wait_for
from tests.unit.dicom.conftest import Reading

SECONDS = 20.0
"""Far under DECODE_TIMEOUT_SECONDS, also on a machine that does other things."""


def workers() -> dict[int, float]:
    """Memory of each worker in MB, by its process."""
    found = {}
    for child in children("transformers_pre.dicom.worker"):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that was replaced just now
            found[child.pid] = child.memory_info().rss / 1e6
    return found


def both_workers() -> dict[int, float]:
    """As `workers`, once one that was replaced is there again: a process that was only just forked is not known by its name."""
    wait_for("both workers", lambda: len(workers()) == 2)
    return workers()


def many_entries(count: int) -> bytes:
    """A ZIP whose directory has so many entries, all of one empty file."""
    one = zipped([b""])
    start, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    directory = one[start:end] * count
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF, 0)
    return one[:start] + directory + record + locator + last


def members(*kinds: bytes) -> bytes:
    """A tar of members of such kinds, each named and linked as if it led out of the archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in kinds:
            member = tarfile.TarInfo("../../../../etc/passwd")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    return file.getvalue()


def digits_in_a_header() -> bytes:
    """A tar whose extended header is 16 kB of digits, which patterns may go over again and again."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("x")
        member.type, member.size = tarfile.XHDTYPE, 16_000
        archive.addfile(member, io.BytesIO(b"9" * 16_000))
    return file.getvalue()


ATTACKS: dict[str, tuple[Callable[[], bytes], type[ServingError], str]] = {
    "a million entries": (lambda: many_entries(1_000_000), TooLarge, r"more than 10000 files, .*\(MAX_FILES\)"),
    "a million entries, few told": (lambda: many_entries(100), InvalidInput, "its files overlap"),
    "links and devices": (
        lambda: members(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE),
        InvalidInput,
        "no DICOM file among the 0 files",
    ),
    "digits": (digits_in_a_header, InvalidInput, "tar headers are damaged"),
    "joined gzip files": (lambda: gzip.compress(b"") * 200_000, InvalidInput, "the upload is empty"),
    "archives in archives": (
        lambda: zipped([zipped([zipped([bytes(1 << 20)])])] * 50),
        ServingError,
        "50 x an archive in the archive",
    ),
}


@pytest.mark.parametrize(("made", "kind", "why"), ATTACKS.values(), ids=ATTACKS)
def test_it_costs_a_refusal(read: Reading, made: Callable[[], bytes], kind: type[ServingError], why: str) -> None:
    upload, before = made(), both_workers()
    begun = time.monotonic()
    with pytest.raises(kind, match=why):
        read(stored(upload))
    assert time.monotonic() - begun < SECONDS
    after = workers()  # where one refuses, the other may be ended at its work
    assert any(pid in before for pid in after)
    assert max(after[pid] - before[pid] for pid in after if pid in before) < 200
    both_workers()


def test_a_codestream_larger_than_its_header_says_ends_no_more_than_a_worker(read: Reading) -> None:
    """30 kB that decode to 256 MB, in an image of 40 x 48 pixels; the next study is read."""
    images = scan()
    usual = [dicom(image, JPEG2000Lossless) for image in images]
    flat = imagecodecs.jpeg2k_encode(np.zeros((8000, 16000), np.uint16), codecformat="j2k", reversible=True, level=0)
    at = usual[0].index(b"\xff\x4f\xff\x51") - 8
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(flat) + len(flat) % 2) + flat + bytes(len(flat) % 2)
    bomb = usual[0][:at] + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    with pytest.raises(ServingError) as caught:
        read(stored(zipped([bomb, *usual[1:]])))
    assert caught.value.http_status == 422
    assert caught.value.code in {"damaged_image", "decoder_died", "decoder_memory"}
    assert read(stored(zipped(usual))).report["slices"]["used"] == 24
