"""Pixels in every transfer syntax and layout of bits, to Hounsfield units."""

from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from serving.errors import Unprocessable, UnsupportedMedia
from tests import ct_reference, ct_series
from tests.ct_series import ENCODERS, NATIVE, dicom, enhanced, hounsfield, scan, set_pixels, stored, uploaded, zipped
from tests.unit.dicom.conftest import Reading

EXACT = 2e-6
Volume = npt.NDArray[np.float32]


def difference(volume: Volume, expected: npt.NDArray[Any]) -> float:
    return float(np.abs(volume - expected).max())


@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODERS, HTJ2KLosslessRPCL])
def test_lossless_transfer_syntaxes(
    read: Reading, expected: Volume, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    monkeypatch.setitem(ENCODERS, HTJ2KLosslessRPCL, imagecodecs.htj2k_encode)
    images = scan()
    if syntax == NATIVE[-1]:  # big endian: pydicom writes headers, the pixels are the generator's
        assert dicom(images[0], syntax) != dicom(images[0])
    study = read(uploaded(images, syntax))
    assert difference(study.volume, expected) < EXACT
    assert len(study.report["slices"]["transfer_syntaxes"]) == 1


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG2000, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=90)),
        (JPEGLSNearLossless, lambda pixels: imagecodecs.jpegls_encode(pixels, level=2)),
        (HTJ2K, imagecodecs.htj2k_encode),
    ],
)
def test_lossy_transfer_syntaxes_are_read_and_said(
    read: Reading, expected: Volume, monkeypatch: pytest.MonkeyPatch, syntax: str, encode: Any
) -> None:
    monkeypatch.setitem(ENCODERS, syntax, encode)
    study = read(uploaded(scan(LossyImageCompression="01"), syntax))
    assert difference(study.volume, expected) < 0.02
    assert "24 images were compressed with loss" in study.report["warnings"]


def test_a_transfer_syntax_that_is_not_read_is_named(read: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, JPEGExtended12Bit, lambda _pixels: b"\xff\xd8\xff\xd9")
    with pytest.raises(UnsupportedMedia, match=r"JPEG Extended.*read are .*JPEG 2000 Lossless") as caught:
        read(uploaded(scan(), JPEGExtended12Bit))
    assert caught.value.code == "unsupported_transfer_syntax"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_frames_of_a_multi_frame_file(read: Reading, expected: Volume, syntax: str) -> None:
    assert difference(read(stored(zipped([dicom(enhanced(scan()), syntax)]))).volume, expected) < EXACT


@pytest.mark.parametrize("table", [True, False])
def test_frames_in_several_fragments(read: Reading, expected: Volume, table: bool) -> None:
    image = enhanced(scan())
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(-1, image.Rows, image.Columns)
    frames = [bytes(ENCODERS[JPEG2000Lossless](frame)) for frame in pixels]
    image.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=table)
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    encoded = image.PixelData
    data = dicom(enhanced(scan()), JPEG2000Lossless)
    single = encapsulate(frames)
    assert data.count(single) == 1
    data = data.replace(single, encoded)
    if table:
        assert difference(read(stored(data)).volume, expected) < EXACT
    else:
        with pytest.raises(Unprocessable, match="their offset table is missing"):
            read(stored(data))


def test_extended_offset_tables_are_not_needed(read: Reading, expected: Volume) -> None:
    image = enhanced(scan())
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(-1, image.Rows, image.Columns)
    frames = [bytes(ENCODERS[RLELossless](frame)) for frame in pixels]
    extended, _, _ = encapsulate_extended(frames)
    data = dicom(image, RLELossless).replace(encapsulate(frames), extended)
    assert difference(read(stored(data)).volume, expected) < EXACT


def with_cells(images: list[Dataset], cells: list[npt.NDArray[Any]], **elements: Any) -> None:
    for image, values in zip(images, cells, strict=True):
        image.PixelData = values.tobytes()
        for name, value in elements.items():
            setattr(image, name, value)


def test_bits_beyond_those_stored_mean_nothing(read: Reading, expected: Volume) -> None:
    images = scan()
    rng = np.random.default_rng(2)
    cells = []
    for image in images:
        set_pixels(image, hounsfield(image), bits=12)
        values = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
        cells.append(values | (rng.integers(0, 16, values.shape) << 12).astype("<u2"))
    with_cells(images, cells)
    assert difference(read(uploaded(images)).volume, expected) < EXACT


@pytest.mark.parametrize("bits", [12, 13, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_signed_values(read: Reading, expected: Volume, bits: int, syntax: str) -> None:
    images = scan()
    # Above their sign bit the cells hold zeros, except where an encoder wants numbers.
    used = 2**bits - 1 if syntax == ExplicitVRLittleEndian else 0xFFFF
    cells = [(hounsfield(image).astype("<i2").view("<u2") & used).view("<i2") for image in images]
    with_cells(
        images,
        cells,
        PixelRepresentation=1,
        BitsStored=bits,
        HighBit=bits - 1,
        RescaleIntercept=0,
    )
    assert difference(read(uploaded(images, syntax)).volume, expected) < EXACT


def test_a_codestream_that_is_unsigned_although_its_header_is_not(read: Reading, expected: Volume) -> None:
    """As some encoders write it: the two's complement in an unsigned JPEG 2000."""
    images = scan()
    cells = [(hounsfield(image).astype("<i2").view("<u2") & 0x1FFF) for image in images]
    with_cells(images, cells, BitsStored=13, HighBit=12, RescaleIntercept=0)
    files = [dicom(image, JPEG2000Lossless) for image in images]
    signed = [
        data.replace(b"\x28\x00\x03\x01US\x02\x00\x00\x00", b"\x28\x00\x03\x01US\x02\x00\x01\x00") for data in files
    ]
    assert difference(read(stored(zipped(signed))).volume, expected) < EXACT


def test_values_above_their_high_bit(read: Reading, expected: Volume) -> None:
    images = scan()
    cells = []
    for image in images:
        set_pixels(image, hounsfield(image), bits=12)
        cells.append(np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns) << 4)
    with_cells(images, cells, HighBit=15)
    assert difference(read(uploaded(images)).volume, expected) < EXACT


@pytest.mark.parametrize("kind", ["<u4", "<i4"])
def test_32_bit_cells(read: Reading, expected: Volume, kind: str) -> None:
    images = scan()
    cells = [(hounsfield(image) + 1024).astype(kind) for image in images]
    with_cells(images, cells, BitsAllocated=32, BitsStored=32, HighBit=31, PixelRepresentation=int(kind == "<i4"))
    assert difference(read(uploaded(images)).volume, expected) < EXACT


def test_padding_that_the_stored_bits_cannot_hold(read: Reading) -> None:
    """GE's -2000 in 12 bits: it fills the whole cell."""
    images = scan(PixelRepresentation=1)
    cells, stack = [], []
    for image in images:
        hu = np.clip(hounsfield(image), -1000, 1000)
        image.add_new(0x00280120, "SS", -2000)
        values = (hu.astype("<i2") & 0x0FFF).astype("<i2")
        values[:4] = -2000
        hu[:4] = -1000
        cells.append(values)
        stack.append(hu)
    with_cells(images, cells, BitsStored=12, HighBit=11, RescaleIntercept=0)
    expected = ct_reference.volume(np.stack(stack), (3.0, 2.0, 2.0))
    assert difference(read(uploaded(images)).volume, expected) < EXACT


def test_images_without_slope_and_intercept_are_taken_for_hounsfield_units(read: Reading, expected: Volume) -> None:
    images = scan()
    with_cells(images, [hounsfield(image).astype("<i2") for image in images], PixelRepresentation=1)
    for image in images:
        del image.RescaleSlope, image.RescaleIntercept
    study = read(uploaded(images))
    assert difference(study.volume, expected) < EXACT
    assert any("24 images have no slope and intercept" in warning for warning in study.report["warnings"])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_an_image_that_is_cut_off_is_refused_by_its_number(read: Reading, syntax: str) -> None:
    files = [dicom(image, syntax) for image in scan()]
    files[7] = files[7][:-600]
    with pytest.raises(Unprocessable, match=r"\(file 8 of the upload\) is damaged") as caught:
        read(stored(zipped(files)))
    assert caught.value.code == "damaged_image"


def test_a_compressed_image_of_another_size_is_refused(read: Reading) -> None:
    images = scan()
    files = [dicom(image, JPEG2000Lossless) for image in images]
    small = scan(count=1, rows=20)[0]
    files[7] = files[7].replace(
        encapsulate([bytes(ENCODERS[JPEG2000Lossless](pixels_of(images[7])))]),
        encapsulate([bytes(ENCODERS[JPEG2000Lossless](pixels_of(small)))]),
    )
    with pytest.raises(Unprocessable, match="does not have the size that its header says"):
        read(stored(zipped(files)))


def pixels_of(image: Dataset) -> npt.NDArray[Any]:
    return np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)


def test_slices_that_the_crop_leaves_out_are_not_decoded(read: Reading) -> None:
    """300 mm beyond both ends of the volume nothing is read, so that nothing there can break."""
    images = scan(count=200, step=3.0, rows=8, columns=8)
    files = [dicom(image) for image in images]
    files[0] = files[0][:-60]
    expected = ct_reference.volume(np.stack([hounsfield(image) for image in images]), (3.0, 2.0, 2.0))
    study = read(stored(zipped(files)))
    assert difference(study.volume, expected) < EXACT
    assert study.report["volume"]["cropped_mm"] == [240.0, 0.0, 0.0]


def test_the_generator_makes_what_it_says() -> None:
    image = scan(count=1)[0]
    points = [np.asarray(value) for value in (-47.0, -39.0, 0.0)]
    assert hounsfield(image)[0, 0] == np.rint(ct_series.body(*points))
