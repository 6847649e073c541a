"""Studies that name somebody in every tag, with any of the faults that messages are about, and the search for what names them."""

from typing import Any

from pydicom import Dataset
from pydicom.datadict import DicomDictionary, keyword_for_tag

MARKER = "ZQXJMARKER"
TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"}
GROUPS = {0x08, 0x10, 0x18, 0x20, 0x28, 0x32, 0x38, 0x40}
NEEDED = {"Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet"}


def marked(image: Dataset) -> Dataset:
    """The image with the marker in every text that the standard knows and that decides nothing."""
    for tag, (vr, *_) in DicomDictionary.items():
        if vr in TEXTS and tag >> 16 in GROUPS and keyword_for_tag(tag) not in NEEDED and tag not in image:
            image.add_new(tag, vr, MARKER)
    image.add_new(0x00090010, "LO", MARKER)
    image.PatientBirthDate, image.PatientName, image.PatientID = "19440404", f"{MARKER}^NAME", MARKER
    image.ConvolutionKernel = MARKER
    return image


def uids(image: Dataset) -> list[str]:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
    return [str(getattr(image, name)) for name in names]


def private(text: str, images: list[Dataset]) -> list[str]:
    """What a text says of the patient."""
    return [word for word in [MARKER, "19440404", *(uid for image in images for uid in uids(image))] if word in text]


def broken_position(images: list[Dataset]) -> None:
    for image in images:
        image.add_new(0x00200032, "LO", f"{MARKER}\\0\\0")


def two_studies(images: list[Dataset]) -> None:
    images[0].StudyInstanceUID = "1.2.3"


FAULTS: dict[str, Any] = {
    "none": lambda images: None,
    "gap": lambda images: images.__delitem__(slice(8, 11)),
    "few": lambda images: images.__delitem__(slice(5, None)),
    "duplicate": lambda images: images.append(images[0]),
    "broken position": broken_position,
    "two studies": two_studies,
    "modality": lambda images: [setattr(image, "Modality", MARKER) for image in images],
    "image type": lambda images: [setattr(image, "ImageType", [MARKER, MARKER]) for image in images],
    "acquisition": lambda images: [image.add_new(0x00200012, "LO", MARKER) for image in images],
    "frames": lambda images: [image.add_new(0x00280008, "LO", MARKER) for image in images],
    "long text": lambda images: [image.add_new(0x00200012, "LT", MARKER * 100) for image in images],
    "slope": lambda images: [image.add_new(0x00281053, "LO", MARKER) for image in images],
}
