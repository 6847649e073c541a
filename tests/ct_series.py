"""CT series made by code: a smooth body, scanned from any side, with any of the faults that real series have.

The body is a function of the patient's coordinates, so that the same one must come out however it was scanned. Nothing here is
a real patient.
"""

import copy
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Floats = npt.NDArray[np.float64]

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PRONE = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def _rle(pixels: npt.NDArray[Any]) -> bytes:
    return bytes(
        RLELosslessEncoder.encode(
            pixels,
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=16,
            bits_stored=16,
            pixel_representation=int(pixels.dtype.kind == "i"),
            photometric_interpretation="MONOCHROME2",
        )
    )


ENCODERS: dict[str, Callable[[npt.NDArray[Any]], bytes]] = {
    RLELossless: _rle,
    JPEGLossless: imagecodecs.ljpeg_encode,
    JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]


def body(left: Floats, back: Floats, head: Floats) -> Floats:
    """HU at points of the patient (mm): smooth, different along every axis, in no way symmetrical."""
    waves = 260 * np.sin(left / 17 + 0.4) + 220 * np.cos(back / 23 - 0.2) + 180 * np.sin(head / 19 + left / 60)
    return np.asarray(waves - 150 + 0.8 * left - 0.5 * back + 1.1 * head)


def scan(
    *,
    count: int = 24,
    rows: int = 40,
    columns: int = 48,
    spacing: tuple[float, float] = (2.0, 2.0),
    step: float = 3.0,
    orientation: Sequence[float] = AXIAL,
    along: Sequence[float] | None = None,
    shear: tuple[float, float, float] | None = None,
    what: Callable[[Floats, Floats, Floats], Floats] = body,
    **elements: Any,
) -> list[Dataset]:
    """A series of single-frame CT images around the patient's origin, in the order of their positions.

    Args:
        count: slices.
        rows: of each.
        columns: of each.
        spacing: mm between rows, between columns.
        step: mm between slices.
        orientation: ImageOrientationPatient.
        along: places of the slices along their normal, instead of even ones.
        shear: direction of the table, instead of the normal: a tilted gantry.
        what: the body.
        elements: further elements of each image, by keyword.
    """
    across, down = np.asarray(orientation, float).reshape(2, 3)
    normal = np.cross(across, down)
    table = normal if shear is None else np.asarray(shear, float)
    places = np.asarray(along) if along is not None else (np.arange(count) - (count - 1) / 2) * step
    corner = -across * (columns - 1) / 2 * spacing[1] - down * (rows - 1) / 2 * spacing[0]
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    found = []
    for number, place in enumerate(places):
        position = corner + place * table
        points = (
            position[:, None, None]
            + across[:, None, None] * (np.arange(columns) * spacing[1])[None, None, :]
            + down[:, None, None] * (np.arange(rows) * spacing[0])[None, :, None]
        )
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.InstanceNumber, image.AcquisitionNumber = len(places) - number, 1
        image.ImagePositionPatient = [f"{value:.6f}" for value in position]
        image.ImageOrientationPatient = [f"{value:.9f}" for value in np.concatenate([across, down])]
        image.PixelSpacing, image.SliceThickness = list(spacing), 2 * step
        image.ConvolutionKernel = "B31f"
        set_pixels(image, np.rint(what(*points)))
        for name, value in elements.items():
            setattr(image, name, value)
        found.append(image)
    return found


def set_pixels(image: Dataset, hu: Floats, *, slope: float = 1.0, intercept: float = -1024.0, bits: int = 16) -> None:
    """Gives an image its pixels, unsigned, in so many bits of 16."""
    stored = np.clip(np.rint((hu - intercept) / slope), 0, 2**bits - 1).astype("<u2")
    image.Rows, image.Columns = stored.shape
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.RescaleSlope, image.RescaleIntercept = slope, intercept
    image.PixelData = stored.tobytes()
    image["PixelData"].VR = "OW"


def hounsfield(image: Dataset) -> Floats:
    """HU of an image that `set_pixels` made, [rows, columns]."""
    stored = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    return stored * float(image.RescaleSlope) + float(image.RescaleIntercept)


def dicom(image: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The image as a file."""
    image = copy.deepcopy(image)
    if syntax in ENCODERS:
        kind = "i2" if image.PixelRepresentation else "u2"
        pixels = np.frombuffer(image.PixelData, f"<{kind}").reshape(-1, image.Rows, image.Columns)
        image.PixelData = encapsulate([bytes(ENCODERS[syntax](frame)) for frame in pixels])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def stored(data: bytes) -> BinaryIO:
    """A file without a name that holds `data`."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller's
    file.write(data)
    file.flush()
    return file


def zipped(files: Iterable[bytes], *, compression: int = zipfile.ZIP_DEFLATED, names: str = "IM{:05d}") -> bytes:
    """A ZIP of files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for number, data in enumerate(files):
            archive.writestr(names.format(number), data)
    return file.getvalue()


def tarred(files: Iterable[bytes], mode: str = "w") -> bytes:
    """A tar of files; mode "w:gz" for a gzipped one."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for number, data in enumerate(files):
            member = tarfile.TarInfo(f"folder/IM{number:05d}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def uploaded(images: Iterable[Dataset], syntax: str = ExplicitVRLittleEndian) -> BinaryIO:
    """A ZIP of a series, as a file."""
    return stored(zipped(dicom(image, syntax) for image in images))


def siemens() -> list[bytes]:
    """20 slices as a Siemens scanner writes them: 512 x 512, 12 bits, JPEG 2000, from head to feet, thicker than their step."""
    images = scan(count=20, rows=512, columns=512, spacing=(0.9765625, 0.9765625), step=2.0, SliceThickness=3)
    for image in images:
        left, back, head = (float(value) for value in image.ImagePositionPatient)
        image.ImagePositionPatient = [left, back - 188, head - 785.5]
        image.Manufacturer, image.ConvolutionKernel = "SIEMENS", ["Br38f", "3"]
        image.ImageType, image.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], "HFS"
        set_pixels(image, hounsfield(image), bits=12)
    return [dicom(image, JPEG2000Lossless) for image in reversed(images)]


def enhanced(images: Sequence[Dataset]) -> Dataset:
    """The same series as one multi-frame Enhanced CT image."""
    first = images[0]
    image = copy.deepcopy(first)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(image, name)
    image.SOPClassUID = f"{CTImageStorage}.1"
    image.NumberOfFrames = len(images)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)]
    shared.CTReconstructionSequence = [_item(ConvolutionKernel="B70")]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame in images:
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=frame.ImagePositionPatient)]
        group.PixelValueTransformationSequence = [
            _item(RescaleSlope=frame.RescaleSlope, RescaleIntercept=frame.RescaleIntercept, RescaleType="HU")
        ]
        group.CTImageFrameTypeSequence = [_item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    image.PixelData = b"".join(frame.PixelData for frame in images)
    return image


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item
