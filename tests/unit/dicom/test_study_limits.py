"""What a study may be: how many images of how many bytes, how long a text, how long a patient; and what the volume cuts off."""

from collections.abc import Callable
from typing import Any

import psutil
import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from serving.errors import InvalidInput, ServingError, TooLarge, Unprocessable
from tests.ct_series import dicom, enhanced, scan, stored, tarred, uploaded, zipped
from tests.unit.dicom.conftest import Reading
from transformers_pre.dicom.limits import StudyLimits


def refusal(upload: bytes, kind: type[ServingError], why: str, **limits: Any) -> str:
    """The code of the refusal by a reader with one worker."""
    reading = Reading(StudyLimits(workers=1, **limits))
    try:
        with pytest.raises(kind, match=why) as caught:
            reading(stored(upload))
    finally:
        reading.close()
    return caught.value.code


def test_frames_of_all_files_count() -> None:
    """Each file alone is within the limit; this process holds what all of them say."""
    files = [dicom(enhanced(scan(count=20, rows=4, columns=4))) for _ in range(3)]
    why = r"more than 50 images, frames of multi-frame files included, .*\(MAX_FILES\)"
    assert refusal(zipped(files), TooLarge, why, max_files=50) == "too_many_files"


def test_decoded_bytes_of_a_series_are_limited() -> None:
    """24 images of 40 x 48 pixels of 2 bytes; compressed they are a fraction of that."""
    upload = zipped(dicom(image, JPEG2000Lossless) for image in scan())
    why = r"24 images of the series have 92160 bytes, decoded; at most 92159 are read \(MAX_DECODED_BYTES\)"
    assert refusal(upload, TooLarge, why, max_decoded_bytes=92_159) == "series_too_large"


def test_a_header_and_a_whole_file_have_limits_of_their_own() -> None:
    upload = zipped((dicom(with_junk(image, 64 << 10)) for image in scan()), compression=0)
    why = r"24 x more than 200 bytes before its pixel data \(MAX_HEADER_BYTES\)"
    assert refusal(upload, Unprocessable, why, max_header_bytes=200) == "too_few_slices"
    upload = zipped(dicom(image) for image in scan())
    why = r"more than 4000 bytes that are read at once \(MAX_WHOLE_BYTES\)"
    assert refusal(upload, TooLarge, why, max_whole_bytes=4000) == "file_too_large"


def long_uid(image: Dataset) -> None:
    image.SeriesInstanceUID = "1." * 5000 + "1"


def long_numbers(image: Dataset) -> None:
    image.add_new(0x00200032, "LT", "0" * 70_000 + "\\0\\0")


def long_kernel(image: Dataset) -> None:
    image.add_new(0x00181210, "LT", "B31f" * 10_000)


@pytest.mark.parametrize("change", [long_uid, long_numbers, long_kernel])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_text_that_is_too_long_is_a_damaged_header(read: Reading, change: Callable[[Dataset], None]) -> None:
    images = scan()
    for image in images:
        change(image)
    with pytest.raises(Unprocessable, match="24 x a damaged header") as caught:
        read(uploaded(images, ImplicitVRLittleEndian))
    assert len(str(caught.value)) < 300


def test_an_element_of_a_gigabyte_is_not_read(read: Reading) -> None:
    """64 MiB of it are there; its header says 1 GiB. The worker stays the one that it was."""
    (image,) = scan(count=1)
    head, _, tail = dicom(image, ImplicitVRLittleEndian).partition(b"\x28\x00\x02\x00")
    element = b"\x20\x00\x00\x40" + (1 << 30).to_bytes(4, "little")
    workers = {child.pid for child in psutil.Process().children()}
    for data in (head + element + bytes(64 << 20), head + element, head + element + b"\x28\x00\x02\x00" + tail):
        with pytest.raises(ServingError, match=r"bytes before its pixel data|no pixel data|damaged header") as caught:
            read(stored(data))
        assert caught.value.http_status == 422
    assert {child.pid for child in psutil.Process().children()} == workers


@pytest.mark.parametrize(
    ("how", "why", "code"),
    [
        (
            {"step": 250.0},
            r"6000 mm along their slices, at most 2500 mm are read \(MAX_EXTENT_MM\)",
            "extent_too_large",
        ),
        ({"spacing": (90.0, 2.0)}, r"3600 mm along their rows, at most 2500 mm", "extent_too_large"),
        ({"spacing": (2.0, 90.0)}, r"4320 mm along their columns, at most 2500 mm", "extent_too_large"),
        ({"step": 0.05}, r"1\.2 mm along their slices, less than a voxel", "extent_too_small"),
        ({"spacing": (0.01, 2.0)}, r"0\.4 mm along their rows, less than a voxel", "extent_too_small"),
        ({"shear": (0.0, 1.0, 1.0)}, "tilted by 45 degrees, at most 35 are read", "tilted_series"),
        ({"shear": (0.0, -50.0, 1.0)}, "tilted by 89 degrees, at most 35 are read", "tilted_series"),
    ],
)
def test_sizes_that_no_patient_has_are_refused(read: Reading, how: dict[str, Any], why: str, code: str) -> None:
    with pytest.raises(Unprocessable, match=why) as caught:
        read(uploaded(scan(**how)))
    assert caught.value.code == code


def test_what_the_volume_cuts_off_is_told(read: Reading) -> None:
    """It shows 360 mm each way; 24 x 20 mm, 40 x 10 mm and 48 x 9 mm are more."""
    report = read(uploaded(scan(step=20.0, spacing=(10.0, 9.0)))).report
    assert report["volume"]["cropped_mm"] == [120.0, 72.0, 39.75]
    assert report["warnings"] == [
        "the images are longer than the volume from feet to head: 120.0 mm are cut off, half at each end",
        "the images are longer than the volume from right to left: 72.0 mm are cut off, half at each end",
        "the images are longer than the volume from front to back: 39.8 mm are cut off, half at each end",
    ]
    assert not any("cut off" in warning for warning in read(uploaded(scan())).report["warnings"])


def with_junk(image: Dataset, size: int) -> Dataset:
    """The image behind a private element of so many zeros."""
    image.add_new(0x00090010, "LO", "SONOTOME TEST")
    image.add_new(0x00091001, "OB", bytes(size))
    return image


def test_a_deflated_data_set_is_no_way_around_the_limits() -> None:
    bombs = [dicom(with_junk(image, 8 << 20), DeflatedExplicitVRLittleEndian) for image in scan(count=20)]
    assert sum(map(len, bombs)) < 1 << 20
    assert refusal(zipped(bombs), TooLarge, r"less than a 100th, .*\(MAX_COMPRESSION_RATIO\)") == "archive_too_large"
    why = r"at most 33554432 are read \(MAX_INFLATED_BYTES\)"
    limits = {"max_ratio": 10_000, "max_inflated_bytes": 32 << 20}
    assert refusal(zipped(bombs, compression=0), TooLarge, why, **limits) == "archive_too_large"


def test_pixel_data_in_countless_pieces_is_refused(read: Reading) -> None:
    images = scan()
    data = dicom(images[0], JPEG2000Lossless)
    pieces = b"\xfe\xff\x00\xe0\0\0\0\0" * (1 << 18)
    at = data.index(b"\xfe\xff\x00\xe0")
    files = [data[:at] + pieces + data[at:], *(dicom(image, JPEG2000Lossless) for image in images[1:])]
    with pytest.raises(Unprocessable, match=r"file 1 of the upload\) is damaged: .* more than 131072 pieces"):
        read(stored(zipped(files, compression=0)))


def test_a_tar_header_that_claims_a_gigabyte_is_damaged(read: Reading) -> None:
    tar = bytearray(tarred([dicom(image) for image in scan()]))
    tar[124:136], tar[156:157] = b"%011o\0" % (1 << 30), b"x"  # an extended header, and its size
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    with pytest.raises(InvalidInput, match="tar headers are damaged"):
        read(stored(bytes(tar)))
