"""Which images make the volume, by their headers alone: what is near is alike, and what is left out is told."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from serving.errors import Unprocessable
from tests.ct_series import AXIAL, dicom, enhanced, hounsfield, scan, set_pixels
from transformers_pre.dicom import body_parts, geometry, header, series
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.records import Entry, Slice
from transformers_pre.dicom.series import Choice

ACROSS, DOWN = AXIAL[:3], AXIAL[3:]


def slices_of(images: Iterable[Dataset]) -> list[Slice]:
    """Their headers, as a worker reads them."""
    found = []
    for number, image in enumerate(images, 1):
        data = dicom(image)
        syntax, _, start = header.transfer_syntax(data)
        entry = Entry(number, 0, len(data), len(data))
        found += header.slices(entry, data, syntax, start, deflated_at=None, limits=StudyLimits())
    return found


def chosen(images: Iterable[Dataset], **how: Any) -> Choice:
    return series.choose(slices_of(images), Counter(), min_slices=20, **how)


def same_series(image: Dataset, other: Dataset) -> None:
    """Puts another image into the series."""
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(other, name, getattr(image, name))


def small(**how: Any) -> list[Dataset]:
    return scan(rows=4, columns=4, **how)


@pytest.mark.parametrize("edge", [0.005, -0.015, 0.0])
def test_directions_on_both_sides_of_a_rounding_are_alike(edge: float) -> None:
    images = small()
    for number, image in enumerate(images):
        tilt = edge + (1e-6 if number % 2 else -1e-6)
        down = np.array([0.0, np.sqrt(1 - tilt**2), tilt])
        image.ImageOrientationPatient = [f"{value:.8f}" for value in (*ACROSS, *down)]
    choice = chosen(images)
    assert (len(choice.slices), choice.dropped, choice.warnings) == (24, Counter(), [])


def test_spacings_on_both_sides_of_a_rounding_are_alike() -> None:
    images = small()
    for number, image in enumerate(images):
        image.PixelSpacing = ["0.7035001" if number % 2 else "0.7034999", "0.7"]
    assert len(chosen(images).slices) == 24


def test_many_small_steps_do_not_make_one_group() -> None:
    """Each is near the next one, the last far from the first."""
    images = small(count=100)
    for number, image in enumerate(images):
        image.PixelSpacing = [f"{0.7 + number * 2e-5:.6f}", "0.7"]
    choice = chosen(images)
    spacings = [image.spacing[0] for image in choice.slices if image.spacing is not None]
    assert max(spacings) - min(spacings) <= 2 * series.SPACING_TOLERANCE_MM
    assert choice.dropped == {"another pixel spacing": 100 - len(spacings)}


def test_the_larger_of_two_groups_is_taken_of_equal_ones_the_first() -> None:
    images = [*small(count=30), *small(count=30, spacing=(2.1, 2.1))]
    for image in images:
        same_series(images[0], image)
    assert {image.spacing for image in chosen(images).slices} == {(2.0, 2.0)}
    assert {image.spacing for image in chosen(images[::-1]).slices} == {(2.1, 2.1)}
    choice = chosen(images[5:])
    assert {image.spacing for image in choice.slices} == {(2.1, 2.1)}
    assert "the series holds several volumes (another pixel spacing: 25 images)" in choice.warnings[0]


@pytest.mark.parametrize(
    ("left_out", "told"), [((0, 1), "6.0 mm before the first slice, 0.0 mm"), ((23,), "3.0 mm behind")]
)
def test_what_is_left_out_at_an_end_is_a_warning(left_out: tuple[int, ...], told: str) -> None:
    images = small()
    for number in left_out:
        set_pixels(images[number], hounsfield(images[number])[:-1])
    (warning,) = chosen(images).warnings
    assert warning.startswith(f"{len(left_out)} images of the series lie beyond the ends of the volume's slices")
    assert f"({len(left_out)} x another matrix size)" in warning
    assert told in warning


def test_what_is_left_out_between_others_is_none() -> None:
    images = small()
    set_pixels(images[7], hounsfield(images[7])[:-1])
    assert chosen(images).warnings == []


def test_files_whose_place_nobody_knows_are_a_warning() -> None:
    images = small()
    del images[23].ImagePositionPatient
    choice = series.choose(slices_of(images), Counter({"a damaged header": 2, "a localizer": 3}), min_slices=20)
    (warning,) = choice.warnings
    assert warning.startswith(
        "3 files or images were left out whose place is not known (2 x a damaged header, 1 x no position"
    )


def test_images_beside_each_other_are_no_duplicates() -> None:
    images = small()
    (other,) = small(count=1)
    same_series(images[5], other)
    other.PixelData = images[5].PixelData
    left, back, head = (float(value) for value in images[5].ImagePositionPatient)
    other.ImagePositionPatient = [left + 40, back, head]
    why = "2 images of the series lie in one plane, 40.0 mm beside each other: files 6, 25 of the upload"
    with pytest.raises(Unprocessable, match=why) as caught:
        geometry.coincident(slices_of([*images, other]))
    assert caught.value.code == "shifted_slices"
    other.ImagePositionPatient = [left + 0.001, back, head]
    assert geometry.coincident(slices_of([*images, other])) == [[5, 24]]


def test_a_tilted_volume_says_that_it_stays_turned() -> None:
    down = np.array([0.0, 1.0, 0.25]) / np.hypot(1, 0.25)
    table = np.cross(ACROSS, down) + 0.25 * down
    found = geometry.stack(slices_of(scan(count=25, orientation=(*ACROSS, *down), shear=tuple(table))), StudyLimits())
    (warning,) = (warning for warning in found.warnings if "gantry" in warning)
    assert warning.startswith("the gantry was tilted by 14.0 degrees: ")
    assert warning.endswith("the volume stays turned by these 14.0 degrees against the body")


def turned(degrees: float) -> list[Dataset]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return small(orientation=(cosine, sine, 0, -sine, cosine, 0))


@pytest.mark.parametrize(
    ("images", "limit", "told"),
    [
        (turned(12), {"max_oblique_degrees": 10.0}, r"by 12 degrees .* at most 10 are read \(MAX_OBLIQUE_DEGREES\)"),
        (small(shear=(0, 0.25, 1)), {"max_tilt_degrees": 10.0}, r"by 14 degrees, at most 10 are read \(MAX_TILT_DEGREES\)"),
        (small()[:9] + small()[10:], {"max_missing_share": 0.0}, r"1 slices are missing, .* \(MAX_MISSING_SHARE\)"),
    ],
)  # fmt: skip
def test_limits_of_the_geometry_are_settings(images: list[Dataset], limit: dict[str, float], told: str) -> None:
    slices = slices_of(images)
    geometry.stack(slices, StudyLimits())
    with pytest.raises(Unprocessable, match=told):
        geometry.stack(slices, StudyLimits(**limit))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["LOW_DOSE", "LOW DOSE", "LOWDOSE", "DOSE_MODULATED", "LUNG SCREENING", "SCREENING"])
def test_a_scan_of_little_dose_is_a_scan(kind: str) -> None:
    assert len(slices_of(small(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", kind]))) == 24


@pytest.mark.parametrize(
    "kind", ["DOSE", "DOSE_INFO", "CT DOSE REPORT", "SCREEN SAVE", "SCREEN_SAVE", "DOSE SCREEN", "SCREEN"]
)
def test_a_picture_of_the_dose_is_none(kind: str) -> None:
    with pytest.raises(header.DroppedError, match="a dose report"):
        slices_of(small(count=1, ImageType=["DERIVED", "SECONDARY", kind]))


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # pydicom, of what is written here
@pytest.mark.parametrize(
    ("label", "part"),
    [
        ("HEAD", "head"), ("Brain ", "head"), ("KNEE", "leg"), ("UPPER_ARM", "arm"), ("ABDOMEN", "abdomen"), ("C-SPINE", "neck"),
        ("CHEST", ""), ("THORAX", ""), ("WHOLEBODY", ""), ("CHEST_ABDOMEN", ""), ("HEADNECK", ""), ("", ""), ("Mr. Head", ""),
    ],
)  # fmt: skip
def test_parts_of_the_body_by_their_labels(label: str, part: str) -> None:
    assert {image.body_part for image in slices_of(small(count=1, BodyPartExamined=label))} == {part}


def region(code: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", "a part"
    return [item]


def test_the_anatomic_region_comes_before_the_protocols_label() -> None:
    (image,) = slices_of(small(count=1, BodyPartExamined="ABDOMEN", AnatomicRegionSequence=region("69536005")))
    assert image.body_part == "head"
    frames = enhanced(small())
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = region("72696002")
    frames.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    assert {image.body_part for image in slices_of([frames])} == {"leg"}


def test_what_says_that_it_is_no_chest_is_refused_unless_that_is_allowed() -> None:
    images = small(BodyPartExamined="HEAD")
    with pytest.raises(Unprocessable, match=r"say that they show the head .*ALLOW_OTHER_BODY_PARTS") as caught:
        chosen(images)
    assert caught.value.code == "not_a_chest"
    (warning,) = chosen(images, other_body_parts=True).warnings
    assert "they show the head, not the chest" in warning


def test_a_series_of_another_part_is_passed_over() -> None:
    """It has the better kernel and more images."""
    heads, chest = small(count=40, BodyPartExamined="HEAD", ConvolutionKernel="B70f"), small(BodyPartExamined="CHEST")
    for image in heads:
        image.StudyInstanceUID = chest[0].StudyInstanceUID
    choice = chosen([*heads, *chest])
    assert (len(choice.slices), choice.warnings) == (24, [])
    assert choice.dropped == {"another series": 40}


def test_a_label_of_the_chests_neighbours_is_a_warning() -> None:
    (warning,) = chosen(small(BodyPartExamined="ABDOMEN")).warnings
    assert warning.startswith("the images say that they show the abdomen, not the chest")


def test_no_label_of_another_part_is_one_of_the_chest() -> None:
    assert not {"CHEST", "THORAX", "LUNG", "HEART", "TSPINE", "RIB", "51185008", "816094009"} & set(
        body_parts._BY_LABEL
    )
