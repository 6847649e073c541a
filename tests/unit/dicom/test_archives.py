"""Uploads in every wrapping, and archives that lie: each is read, or refused by what is wrong with it."""

import struct
import tarfile
import zipfile
from gzip import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.errors import InvalidInput, ServingError, TooLarge, Unprocessable
from serving.workers.wire import RefusedError
from tests.ct_series import dicom, enhanced, scan, stored, tarred, zipped
from tests.unit.dicom.conftest import Reading
from transformers_pre.dicom import worker
from transformers_pre.dicom.limits import StudyLimits

EXACT = 2e-6
Volume = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """A series, file by file."""
    return [dicom(image) for image in scan()]


@pytest.fixture(scope="module")
def archive(files: list[bytes]) -> bytes:
    """The same in a ZIP."""
    return zipped(files)


def equal(volume: Volume, expected: Volume) -> bool:
    return float(np.abs(volume - expected).max()) < EXACT


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(read: Reading, files: list[bytes], expected: Volume, compression: int) -> None:
    assert equal(read(stored(zipped(files, compression=compression))).volume, expected)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar(read: Reading, files: list[bytes], expected: Volume, mode: str) -> None:
    assert equal(read(stored(tarred(files, mode))).volume, expected)


def test_several_files(read: Reading, files: list[bytes], expected: Volume) -> None:
    parts, at = [], 0
    for data in files:
        parts.append((at, len(data)))
        at += len(data)
    assert equal(read(stored(b"".join(files)), parts=parts).volume, expected)


@pytest.mark.parametrize("wrapping", ["file", "gzip", "zip", "stored zip", "big"])
def test_one_multi_frame_file(read: Reading, expected: Volume, wrapping: str) -> None:
    data = dicom(enhanced(scan()))
    wrapped = {
        "file": data,
        "gzip": compress(data),
        "zip": zipped([data]),
        "stored zip": zipped([data], compression=zipfile.ZIP_STORED),
        "big": zipped([b"no DICOM", data]),
    }[wrapping]
    study = read(stored(wrapped))
    assert equal(study.volume, expected)
    assert study.report["series"]["kernel"] == "lung"
    assert study.report["slices"]["used"] == 24


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_multi_frame_file_with_a_wrong_checksum_is_damaged(read: Reading, compression: int) -> None:
    """Its pixel data alone has changed: everything else of it can be read."""
    archive = zipped([dicom(enhanced(scan()))], compression=compression)
    wrong = central(archive, 16, b"\0\0\0\0")
    if compression == zipfile.ZIP_STORED:
        at = archive.index(b"PK\x01\x02") - 100
        wrong = archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]
    with pytest.raises(InvalidInput, match="file 1 does not have the checksum that its directory says") as caught:
        read(stored(wrong))
    assert caught.value.code == "damaged_archive"


def test_names_play_no_part(read: Reading, files: list[bytes], expected: Volume) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        same = zipped(files, names="../../../etc/passwd")
    assert equal(read(stored(same)).volume, expected)


def test_what_else_is_in_an_archive_is_listed(
    read: Reading, files: list[bytes], archive: bytes, expected: Volume
) -> None:
    study = read(stored(zipped([b"README", b"", archive, *files, files[0][:600]])))
    assert equal(study.volume, expected)
    assert study.report["slices"]["dropped"] == [
        {"reason": "an archive in the archive", "count": 1},
        {"reason": "no pixel data", "count": 1},
        {"reason": "not a DICOM file", "count": 2},
    ]


def patched(data: bytes, signature: bytes, offset: int, value: bytes, *, which: int = 0) -> bytes:
    """A ZIP with some bytes of its `which`-th header of a kind replaced."""
    at = -1
    for _ in range(which + 1):
        at = data.index(signature, at + 1)
    return data[: at + offset] + value + data[at + offset + len(value) :]


def local(data: bytes, *arguments: Any, **how: Any) -> bytes:
    return patched(data, b"PK\x03\x04", *arguments, **how)


def central(data: bytes, *arguments: Any, **how: Any) -> bytes:
    return patched(data, b"PK\x01\x02", *arguments, **how)


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        (lambda data: b"", "not_an_archive", "it has 0 bytes"),
        (lambda data: b"GIF89a" + bytes(600), "not_an_archive", "neither a ZIP, a tar"),
        (lambda data: data[:-30], "damaged_archive", "it is cut off"),
        (lambda data: data[: len(data) // 2], "damaged_archive", "it is cut off"),
        (lambda data: central(data, 8, b"\x01\0"), "encrypted_archive", "is encrypted"),
        (lambda data: local(data, 6, b"\x01\0"), "damaged_archive", "headers of file 1 contradict"),
        (lambda data: central(data, 10, b"\x0c\0"), "damaged_archive", "headers of file 1 contradict"),
        (lambda data: local(central(data, 10, b"\x0e\0"), 8, b"\x0e\0"), "unsupported_compression", "method 14"),
        (lambda data: central(data, 42, struct.pack("<L", 7)), "damaged_archive", "not where its directory says"),
        (lambda data: central(data, 42, bytes(4), which=1), "damaged_archive", "overlap"),
        (lambda data: central(data, 20, struct.pack("<L", 1 << 30)), "damaged_archive", "sizes of file 1 contradict"),
        (lambda data: central(data, 24, struct.pack("<L", 4000)), "damaged_archive", "than its directory says"),
        (lambda data: central(data, 16, b"\0\0\0\0"), "damaged_archive", "does not have the checksum"),
        (lambda data: local(data, 30 + 7 + 200, bytes(2000)), "damaged_archive", "file 1 "),
    ],
)
def test_archives_that_are_damaged_or_lie(read: Reading, archive: bytes, change: Any, code: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        read(stored(change(archive)))
    assert caught.value.code == code


def test_a_tar_of_headers_of_headers_is_damaged(read: Reading) -> None:
    """Each announces the name of the next member; Python's tarfile goes one deeper for every one."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1
    chained = (name.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(tarfile.BLOCKSIZE, b"\0")) * 2000
    with pytest.raises(InvalidInput, match="its tar headers are damaged") as caught:
        read(stored(chained + bytes(2 * tarfile.BLOCKSIZE)))
    assert caught.value.code == "damaged_archive"


def test_of_a_failure_a_worker_writes_the_last_frames(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deeper(*given: Any) -> None:  # two in turn: repeated lines of one are not written
        other(*given)
        raise AssertionError

    def other(*given: Any) -> None:
        deeper(*given)
        raise AssertionError

    monkeypatch.setattr(worker, "_check_crc", deeper)
    with pytest.raises(RefusedError, match="it is damaged"):
        worker.answer({"job": "check_crc"}, [], lambda *_: None)
    written = capsys.readouterr().err.splitlines()
    assert written[0] == "a study cannot be read: RecursionError"
    assert any("in deeper" in line for line in written)
    assert len(written) < 50


def test_an_archive_without_dicom(read: Reading) -> None:
    with pytest.raises(InvalidInput, match="no DICOM file among the 2 files") as caught:
        read(stored(zipped([b"some", b"thing"])))
    assert caught.value.code == "no_dicom"
    with pytest.raises(InvalidInput, match="no DICOM file among the 0 files"):
        read(stored(zipped([])))


def test_too_few_images_are_refused_with_what_was_left_out(read: Reading, files: list[bytes]) -> None:
    with pytest.raises(
        Unprocessable, match=r"has 19 images .* at least 20 .*MIN_SLICES.*1 x not a DICOM file"
    ) as caught:
        read(stored(zipped([*files[:19], b"README"])))
    assert caught.value.code == "too_few_slices"


def test_an_overlapping_archive_cannot_yield_more_than_it_holds(read: Reading) -> None:
    """Many directory entries on one file: David Fifield's ZIP bomb in small."""
    bomb = zipped([bytes(1 << 20)])
    start, entry_end = bomb.index(b"PK\x01\x02"), bomb.index(b"PK\x05\x06")
    directory = bomb[start:entry_end] * 200
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 200, 200, len(directory), start, 0)
    with pytest.raises(InvalidInput, match="its files overlap"):
        read(stored(bomb[:start] + directory + end))


@pytest.mark.parametrize(
    ("limits", "what", "why"),
    [
        ({"max_files": 10}, "zip", r"more than 10 files, the limit here \(MAX_FILES\)"),
        ({"max_files": 10}, "tar", r"more than 10 files, the limit here \(MAX_FILES\)"),
        ({"max_files": 10}, "frames", r"24 frames, .* at most 10 are read \(MAX_FILES\)"),
        ({"max_inflated_bytes": 50_000}, "zip", r"at most 50000 are read \(MAX_INFLATED_BYTES\)"),
        ({"max_inflated_bytes": 50_000}, "gzip", r"more than 50000 bytes, .*\(MAX_INFLATED_BYTES\)"),
        ({"max_file_bytes": 4000}, "zip", r"at most 4000 are read \(MAX_FILE_BYTES\)"),
        ({"max_matrix": 32}, "zip", r"40 x 48 pixels, .* at most 32 x 32 are read \(MAX_MATRIX\)"),
        ({}, "ratio", r"less than a 100th, the limit here \(MAX_COMPRESSION_RATIO\)"),
        ({}, "gzip ratio", r"less than a 100th, the limit here \(MAX_COMPRESSION_RATIO\)"),
    ],
)
def test_limits_are_named(files: list[bytes], limits: dict[str, Any], what: str, why: str) -> None:
    upload = {
        "zip": lambda: zipped(files),
        "tar": lambda: tarred(files),
        "gzip": lambda: tarred(files, "w:gz"),
        "frames": lambda: dicom(enhanced(scan())),
        "ratio": lambda: zipped([bytes(10 << 20)]),
        "gzip ratio": lambda: compress(bytes(10 << 20)),
    }[what]()
    reading = Reading(StudyLimits(workers=1, **limits))
    try:
        with pytest.raises(TooLarge, match=why):
            reading(stored(upload))
    finally:
        reading.close()


def test_the_series_that_was_asked_for(read: Reading, files: list[bytes], expected: Volume) -> None:
    other = scan(ConvolutionKernel="B70f", what=lambda left, back, head: left + back + head)
    usual = scan()
    both = zipped([*(dicom(image) for image in usual), *(dicom(image) for image in other)])
    with pytest.raises(Unprocessable, match="several studies"):
        read(stored(both))
    for image in other:
        image.StudyInstanceUID = usual[0].StudyInstanceUID
    both = zipped([*(dicom(image) for image in usual), *(dicom(image) for image in other)])
    best = read(stored(both))
    assert best.series_uid == other[0].SeriesInstanceUID
    assert best.report["series"] == {"found": 2, "chosen_by": "kernel", "kernel": "lung"}
    assert best.report["slices"]["dropped"] == [{"reason": "another series", "count": 24}]
    asked = read(stored(both), series_uid=usual[0].SeriesInstanceUID)
    assert asked.series_uid == usual[0].SeriesInstanceUID
    assert asked.report["series"]["chosen_by"] == "request"
    assert equal(asked.volume, expected)
    with pytest.raises(InvalidInput, match="none of the 2 CT series") as caught:
        read(stored(both), series_uid="1.2.3")
    assert caught.value.param == "series_uid"
    more = scan(count=30)
    for image in more:
        image.StudyInstanceUID = usual[0].StudyInstanceUID
    longest = read(stored(zipped(dicom(image) for image in [*usual, *more])))
    assert longest.series_uid == more[0].SeriesInstanceUID
    assert longest.report["series"]["chosen_by"] == "number of slices"


def test_derived_images_are_taken_only_when_asked_for(read: Reading) -> None:
    images = scan(ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    upload = zipped(dicom(image) for image in images)
    with pytest.raises(Unprocessable, match="24 x a derived image"):
        read(stored(upload))
    study = read(stored(upload), series_uid=images[0].SeriesInstanceUID)
    assert "the images are derived ones, taken because their series was asked for" in study.report["warnings"]


def test_a_refusal_leaves_the_workers_fit(read: Reading, archive: bytes, expected: Volume) -> None:
    with pytest.raises(ServingError):
        read(stored(b"PK\x03\x04" + bytes(100)))
    assert equal(read(stored(archive)).volume, expected)
