"""Damaged and hostile uploads without end: each gives a volume or a refusal, no worker dies of it, none takes more memory.

Half a minute by default, FUZZ_SECONDS for longer (`make fuzz`).
"""

import json
import os
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import hypothesis
import psutil
import pytest
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from serving.errors import ServingError
from serving.workers.wire import RefusedError
from tests.children import children
from tests.ct_series import dicom, enhanced, scan, stored, tarred, zipped
from tests.unit.dicom.conftest import Reading
from transformers_pre.dicom import worker
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.records import SLICES

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
MEMORY_BYTES = 192 << 20

IMAGES = scan(count=21, rows=8, columns=8)
FILES = {
    syntax: [dicom(image, syntax) for image in IMAGES]
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEG2000Lossless)
}
ENHANCED = [dicom(enhanced(IMAGES), syntax) for syntax in (ExplicitVRLittleEndian, JPEG2000Lossless)]
WRAPPINGS: list[Callable[[list[bytes]], bytes]] = [
    zipped,
    lambda files: zipped(files, compression=0),
    tarred,
    lambda files: tarred(files, "w:gz"),
]
# What lengths, offsets and counts break on.
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFF]
TOKENS = [
    *(struct.pack("<L", number) for number in NUMBERS),
    *(b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07", b"DICM", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"),
    *(b"SQ\x00\x00\xff\xff\xff\xff", b"\xe0\x7f\x10\x00", b"1e999", b"nan", b"-0", b"\\"),
]


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Changes to some bytes, mostly of the first ones, where headers are, or the last ones, where directories are."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["head", "tail", "any"]),
                st.floats(0, 1, exclude_max=True),
                st.sampled_from(["set", "insert", "delete", "cut"]),
                st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=4)),
            ),
            max_size=6,
        )
    )

    def apply(data: bytes) -> bytes:
        for where, share, what, token in changes:
            span = min(len(data), 1500)
            at = {"head": int(share * span), "tail": len(data) - 1 - int(share * span), "any": int(share * len(data))}[
                where
            ]
            at = max(at, 0)
            if what == "cut":
                data = data[:at] if where != "head" else data[at:]
            else:
                gone = 0 if what == "insert" else len(token)
                data = data[:at] + (b"" if what == "delete" else token) + data[at + gone :]
        return data

    return apply


@st.composite
def uploads(draw: st.DrawFn) -> bytes:
    """A series with some of its files damaged, in a wrapping that may be damaged too."""
    if draw(st.integers(0, 4)) == 0:
        files = [draw(st.sampled_from(ENHANCED))]
    else:
        files = list(draw(st.sampled_from(list(FILES.values()))))
    for number in draw(st.lists(st.integers(0, len(files) - 1), max_size=3)):
        files[number] = draw(damage())(files[number])
    wrapped = draw(st.sampled_from(WRAPPINGS))(files) if len(files) > 1 or draw(st.booleans()) else files[0]
    return draw(damage())(wrapped) if draw(st.booleans()) else wrapped


REFUSED_FOR_A_REASON = frozenset({400, 413, 415, 422})
OURS = frozenset({"decoder_died", "decoder_memory", "decode_timeout", "unreadable_study"})
"""Codes of refusals that an upload should not get to."""


def check_refusal(status: int, code: str) -> None:
    assert status in REFUSED_FOR_A_REASON
    assert code not in OURS


def for_seconds(seconds: float, check: Callable[[bytes], None]) -> None:
    """Lets `check` see uploads for so long."""
    end = time.monotonic() + seconds

    @hypothesis.settings(
        max_examples=10_000_000,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(uploads())
    def one(upload: bytes) -> None:
        if time.monotonic() > end:
            raise KeyboardInterrupt
        check(upload)

    with pytest.raises(KeyboardInterrupt):
        one()


@pytest.mark.timeout(SECONDS + 120)
def test_what_workers_do_ends_in_an_outcome_or_a_refusal() -> None:
    """In this process, without the volume, so that it is fast; a crash would end the tests."""
    limits = asdict(StudyLimits(max_inflated_bytes=64 << 20))
    outcomes: Counter[str] = Counter()

    def check(upload: bytes) -> None:
        with stored(upload) as file, tempfile.TemporaryFile() as scratch:
            descriptors = [file.fileno(), scratch.fileno()]
            messages: list[tuple[bytes, bytes]] = []

            def answer(job: dict[str, Any]) -> bool:
                try:
                    worker.answer(job, descriptors, lambda *message: messages.append(message))
                except RefusedError as error:
                    refused = error
                else:
                    return True
                check_refusal(refused.status, refused.code)
                outcomes[refused.code] += 1
                return False

            kind = "zip" if upload[:2] == b"PK" else "tar" if upload[257:262] == b"ustar" else "files"
            zipped = upload[:2] == b"\x1f\x8b"
            if zipped and not answer({"job": "unpack_gzip", "limits": limits}):
                return
            if zipped:
                kind = "tar"
            source = {"kind": kind, "parts": [(0, len(upload))], "limits": limits, "scratch": zipped}
            if answer({"job": "scan", "source": source, "share": 0, "shares": 1}):
                slices = [fields for kind, payload in messages if kind == SLICES for fields in json.loads(payload)]
                for fields in slices:
                    outcomes["images"] += answer({"job": "digest", "slices": [fields], "limits": limits})

    before = psutil.Process().memory_info().rss
    for_seconds(SECONDS / 2, check)
    assert psutil.Process().memory_info().rss - before < MEMORY_BYTES
    assert outcomes["images"] > 100
    assert len(outcomes) >= 3, outcomes


@pytest.mark.timeout(SECONDS + 120)
def test_no_upload_crashes_a_worker_or_takes_more_memory_than_it_may() -> None:
    reading = Reading(
        StudyLimits(workers=1, memory_bytes=MEMORY_BYTES, timeout_seconds=60, max_inflated_bytes=64 << 20)
    )
    (process,) = children("transformers_pre.dicom.worker")
    outcomes: Counter[str] = Counter()

    def check(upload: bytes) -> None:
        try:
            study = reading(stored(upload))
        except ServingError as error:
            check_refusal(error.http_status, error.code)
            outcomes[error.code] += 1
        else:
            assert -1 <= study.volume[::40].min() <= study.volume[::40].max() <= 1  # false for NaN
            outcomes["volume"] += 1

    try:
        for_seconds(SECONDS / 2, check)
        assert process.is_running(), outcomes  # the same one: none was replaced
        assert outcomes["volume"] > 0
    finally:
        reading.close()
