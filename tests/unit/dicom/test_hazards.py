"""The faults that real series have, made by code: each is put right or refused with its reason, none is silently wrong.

The list is that of a comparison of SimpleITK, dicom2nifti, dcm2niix and highdicom, each of which is wrong on some of it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from serving.errors import Unprocessable
from tests import ct_reference, ct_series
from tests.ct_series import enhanced, hounsfield, scan, set_pixels, uploaded
from tests.unit.dicom.conftest import Reading
from transformers_pre.dicom.reader import Study

Volume = npt.NDArray[np.float32]
EXACT = 2e-6
"""Float32 arithmetic, HU / 1000."""


def difference(study: Study, expected: Volume) -> float:
    return float(np.abs(study.volume - expected).max())


def dropped(study: Study) -> dict[str, int]:
    return {entry["reason"]: entry["count"] for entry in study.report["slices"]["dropped"]}


def warnings_of(study: Study) -> str:
    return " ".join(study.report["warnings"])


def same_series(image: Dataset, other: Dataset) -> None:
    """Puts another image into the series."""
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(other, name, getattr(image, name))


def test_a_series_without_faults_equals_the_reference(read: Reading, expected: Volume) -> None:
    images = scan()
    study = read(uploaded(images[::-1]))
    assert difference(study, expected) < EXACT
    assert study.study_uid == images[0].StudyInstanceUID
    assert study.series_uid == images[0].SeriesInstanceUID
    report = study.report
    assert report["slices"] == {
        "received": 24,
        "used": 24,
        "dropped": [],
        "interpolated_at_mm": [],
        "transfer_syntaxes": ["Explicit VR Little Endian"],
    }
    assert report["geometry"] == {
        "plane": "axial",
        "matrix": [40, 48],
        "spacing_mm": [3.0, 2.0, 2.0],
        "coverage_mm": [72.0, 80.0, 96.0],
        "turned": False,
        "tilt_degrees": 0.0,
        "oblique_degrees": 0.0,
    }
    assert report["volume"]["resampled"] == [48, 128, 106]
    assert report["volume"]["padded_mm"] == [288.0, 264.0, 280.5]
    assert len(report["warnings"]) == 1
    assert "cover 72 mm" in report["warnings"][0]


def test_a_missing_slice_is_interpolated(read: Reading, expected: Volume) -> None:
    images = scan()
    place = float(images[10].ImagePositionPatient[2])
    study = read(uploaded(images[:10] + images[11:]))
    assert study.report["slices"]["interpolated_at_mm"] == [pytest.approx(place, abs=0.01)]
    assert study.report["geometry"]["spacing_mm"] == [3.0, 2.0, 2.0]
    assert "1 missing slices are interpolated" in warnings_of(study)
    # Linear interpolation of a wave of 180 HU and 119 mm over 6 mm is off by 2.3 HU at most.
    assert 1e-4 < difference(study, expected) < 0.003


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ((10, 11), r"between -7\.5 and 1\.5 mm: the others are 3\.00 mm apart, and only single slices"),
        ((10, 12), "2 slices are missing, too many or too close together"),
        ((3, 8, 13), "3 slices are missing, too many"),
    ],
)
def test_larger_gaps_are_refused_by_name(read: Reading, gone: tuple[int, ...], why: str) -> None:
    images = [image for number, image in enumerate(scan()) if number not in gone]
    with pytest.raises(Unprocessable, match=why) as caught:
        read(uploaded(images))
    assert caught.value.code == "missing_slices"


def test_an_exact_duplicate_is_dropped(read: Reading, expected: Volume) -> None:
    images = scan()
    study = read(uploaded([*images, images[5]]))
    assert difference(study, expected) < EXACT
    assert dropped(study) == {"a duplicate": 1}


def test_two_images_at_one_place_are_refused(read: Reading) -> None:
    images = scan()
    (other,) = scan(count=1, what=lambda *points: ct_series.body(*points) + 50)
    same_series(images[5], other)
    other.ImagePositionPatient = images[5].ImagePositionPatient
    with pytest.raises(
        Unprocessable, match="2 images of the series lie at the same place and differ: files 6, 25"
    ) as caught:
        read(uploaded([*images, other]))
    assert caught.value.code == "conflicting_slices"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "a derived image"),
        ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "a dose report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a screenshot (secondary capture)"),
        ({"Modality": "PT"}, "not a CT image"),
        ({"FrameOfReferenceUID": generate_uid()}, "another frame of reference"),
        ({"TemporalPositionIdentifier": "2"}, "another phase"),
        ({"ConvolutionKernel": "B70f"}, "another kernel"),
        ({"PixelSpacing": [1.0, 1.0]}, "another pixel spacing"),
        ({"ImageOrientationPatient": list(ct_series.CORONAL)}, "another orientation"),
        ({"ImagePositionPatient": None}, "no position, orientation or pixel spacing"),
    ],
)
def test_images_that_do_not_belong_are_dropped_with_their_reason(
    read: Reading, expected: Volume, fault: dict[str, Any], reason: str
) -> None:
    images = scan()
    (stray,) = scan(count=1)
    same_series(images[0], stray)
    for name, value in fault.items():
        setattr(stray, name, value)
    study = read(uploaded([stray, *images]))
    assert difference(study, expected) < EXACT
    assert dropped(study) == {reason: 1}


def test_a_slice_of_another_size_leaves_a_gap_that_is_interpolated(read: Reading, expected: Volume) -> None:
    images = scan()
    set_pixels(images[10], hounsfield(images[10])[:-8])
    study = read(uploaded(images))
    assert dropped(study) == {"another matrix size": 1}
    assert len(study.report["slices"]["interpolated_at_mm"]) == 1
    assert difference(study, expected) < 0.003


def test_a_tilted_gantry_is_sheared_upright(read: Reading) -> None:
    drift = 0.25  # mm down the rows for each along the normal: 14 degrees
    down = np.array([0.0, 1.0, drift]) / np.hypot(1, drift)
    tilted = (1.0, 0.0, 0.0, *down)
    table = np.cross([1.0, 0.0, 0.0], down) + drift * down
    images = scan(count=25, orientation=tilted, shear=tuple(table))
    assert np.allclose(table[:2], 0)
    study = read(uploaded(images))
    assert study.report["geometry"]["tilt_degrees"] == pytest.approx(14.04, abs=0.01)
    assert study.report["geometry"]["coverage_mm"] == [75.0, 98.0, 96.0]  # 24 x 0.75 mm are 9 rows
    assert "the gantry was tilted by 14.0 degrees" in warnings_of(study)
    upright = scan(count=25, orientation=tilted, rows=49)
    expected = ct_reference.volume(np.stack([hounsfield(image) for image in upright]), (3.0, 2.0, 2.0))
    # Inside the rows that every slice has: 31 of 49, 62 mm.
    inside = (slice(96, 144), slice(178, 302), slice(203, 277))
    assert np.abs(study.volume[inside] - expected[inside]).max() < 0.005
    assert (study.volume[inside] != -1).all()


def test_slices_shifted_otherwise_are_refused(read: Reading) -> None:
    images = scan(shear=(0.2, 0.0, 1.0))
    with pytest.raises(Unprocessable, match="do not lie above each other") as caught:
        read(uploaded(images))
    assert caught.value.code == "shifted_slices"


def test_slope_and_intercept_of_each_slice(read: Reading, expected: Volume) -> None:
    images = scan()
    for number, image in enumerate(images):
        set_pixels(image, hounsfield(image), slope=1.0, intercept=-1024.0 - number)
    assert difference(read(uploaded(images)), expected) < EXACT


def test_a_slope_that_is_not_one(read: Reading) -> None:
    images = scan()
    for image in images:
        set_pixels(image, hounsfield(image), slope=2.0, intercept=-1100.0)
    expected = ct_reference.volume(np.stack([hounsfield(image) for image in images]), (3.0, 2.0, 2.0))
    assert difference(read(uploaded(images)), expected) < EXACT


def test_monochrome1_is_not_inverted(read: Reading, expected: Volume) -> None:
    assert difference(read(uploaded(scan(PhotometricInterpretation="MONOCHROME1"))), expected) < EXACT


@pytest.mark.parametrize(
    ("how", "plane"),
    [
        ({"orientation": ct_series.PRONE}, "axial"),
        ({"orientation": ct_series.FEET_FIRST}, "axial"),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)}, "axial"),
        ({"orientation": (0.0, 1.0, 0.0, 1.0, 0.0, 0.0), "rows": 48, "columns": 40}, "axial"),
        (
            {
                "orientation": ct_series.SAGITTAL,
                "rows": 24,
                "columns": 40,
                "count": 48,
                "step": 2.0,
                "spacing": (3.0, 2.0),
            },
            "sagittal",
        ),
        (
            {
                "orientation": ct_series.CORONAL,
                "rows": 24,
                "columns": 48,
                "count": 40,
                "step": 2.0,
                "spacing": (3.0, 2.0),
            },
            "coronal",
        ),
    ],
)
def test_whichever_way_round_the_patient_was_scanned(
    read: Reading, expected: Volume, how: dict[str, Any], plane: str
) -> None:
    study = read(uploaded(scan(**how)))
    assert difference(study, expected) < 0.0011  # HU are rounded at the same points, some of them up and some down
    assert study.report["geometry"]["plane"] == plane
    assert study.report["geometry"]["turned"]


def test_pixels_that_are_not_square(read: Reading) -> None:
    images = scan(spacing=(1.7, 2.3))
    expected = ct_reference.volume(np.stack([hounsfield(image) for image in images]), (3.0, 1.7, 2.3))
    assert difference(read(uploaded(images)), expected) < EXACT


@pytest.mark.parametrize(("value", "limit"), [(4000, None), (3990, 4010), (4010, 3990)])
def test_padding_becomes_air(read: Reading, value: int, limit: int | None) -> None:
    images = scan(PixelPaddingValue=value, **({"PixelPaddingRangeLimit": limit} if limit else {}))
    stack = []
    for image in images:
        hu = hounsfield(image)
        hu[:5] = 4000 - 1024
        set_pixels(image, hu)
        hu[:5] = -1000
        stack.append(hu)
    for image in images:
        image.add_new(0x00280120, "US", value)
        if limit:
            image.add_new(0x00280121, "US", limit)
    expected = ct_reference.volume(np.stack(stack), (3.0, 2.0, 2.0))
    assert difference(read(uploaded(images)), expected) < EXACT


def test_images_without_positions_are_refused(read: Reading) -> None:
    images = scan()
    for image in images:
        del image.ImagePositionPatient
    with pytest.raises(Unprocessable, match="24 x no position, orientation or pixel spacing") as caught:
        read(uploaded(images))
    assert caught.value.code == "too_few_slices"


def test_uneven_slices_are_resampled_from_where_they_lie(read: Reading) -> None:
    rng = np.random.default_rng(1)
    places = (np.arange(24) - 11.5) * 3.0 + rng.uniform(-0.5, 0.5, 24)
    places[[0, -1]] = -34.5, 34.5
    study = read(uploaded(scan(along=places)))
    expected = ct_reference.volume(np.stack([hounsfield(image) for image in scan()]), (3.0, 2.0, 2.0))
    assert "resampled from where they lie" in warnings_of(study)
    assert np.abs(study.volume - expected).max() < 0.005


def test_small_differences_of_spacing_do_not_add_up(read: Reading) -> None:
    """Each step is within the tolerance of even ones; in the middle the slices would lie 1.7 mm beside their places."""
    steps = np.repeat([3.0, 3.14], 24)
    places = np.concatenate([[0.0], np.cumsum(steps)]) - steps.sum() / 2
    study = read(uploaded(scan(along=places)))
    step = steps.sum() / 48
    even = scan(count=49, step=step)
    expected = ct_reference.volume(np.stack([hounsfield(image) for image in even]), (round(step, 5), 2.0, 2.0))
    assert "resampled from where they lie" in warnings_of(study)
    assert np.abs(study.volume - expected).max() < 0.005


@pytest.mark.parametrize("kind", ["Z_EFF", "ED", "MGML", "HU_MOD"])
def test_values_that_are_not_hounsfield_units_are_refused(read: Reading, kind: str) -> None:
    with pytest.raises(Unprocessable, match=r"24 x values that are not Hounsfield units \(RescaleType\)"):
        read(uploaded(scan(RescaleType=kind)))


def test_the_unit_of_a_multi_frame_image_stands_in_its_frames(read: Reading, expected: Volume) -> None:
    image = enhanced(scan())
    assert difference(read(uploaded([image])), expected) < EXACT
    for group in image.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence[0].RescaleType = "Z_EFF"
    with pytest.raises(Unprocessable, match=r"values that are not Hounsfield units \(RescaleType\)"):
        read(uploaded([image]))


def test_a_negative_slope_is_refused(read: Reading) -> None:
    with pytest.raises(Unprocessable):
        read(uploaded(scan(RescaleSlope=-1.0)))


@pytest.mark.parametrize("kind", ["HU", "US"])
def test_hounsfield_units_by_name(read: Reading, expected: Volume, kind: str) -> None:
    assert difference(read(uploaded(scan(RescaleType=kind))), expected) < EXACT


def test_images_of_two_scales_are_refused(read: Reading) -> None:
    images = scan()
    del images[7].RescaleSlope, images[7].RescaleIntercept
    with pytest.raises(Unprocessable, match="1 of 24 images have no slope and intercept") as caught:
        read(uploaded(images))
    assert caught.value.code == "mixed_rescale"


def phases(**of_second: Any) -> list[Dataset]:
    """Two phases in one series, at the same places."""
    first, second = scan(), scan(what=lambda *points: ct_series.body(*points) + 40)
    for one, other in zip(first, second, strict=True):
        same_series(one, other)
        for name, value in of_second.items():
            setattr(other, name, value)
    return [image for pair in zip(first, second, strict=True) for image in pair]


@pytest.mark.parametrize(
    ("of_second", "reason"),
    [
        ({"AcquisitionNumber": 2}, "another acquisition"),
        ({"TemporalPositionIdentifier": "2"}, "another phase"),
        ({"FrameOfReferenceUID": generate_uid()}, "another frame of reference"),
    ],
)
def test_of_two_phases_in_a_series_one_is_taken(
    read: Reading, expected: Volume, of_second: dict[str, Any], reason: str
) -> None:
    study = read(uploaded(phases(**of_second)))
    assert difference(study, expected) < EXACT
    assert dropped(study) == {reason: 24}
    assert f"the series holds several volumes ({reason}: 24 images)" in warnings_of(study)


def test_phases_that_nothing_tells_apart_are_refused(read: Reading) -> None:
    with pytest.raises(Unprocessable, match="lie at the same place and differ"):
        read(uploaded(phases()))


def test_phases_between_each_other_are_refused(read: Reading) -> None:
    places = np.sort(np.concatenate([np.arange(12) * 3.0, np.arange(12) * 3.0 + 0.7]))
    with pytest.raises(Unprocessable, match=r"not evenly spaced|slices are missing"):
        read(uploaded(scan(along=places)))


def test_images_that_are_turned_far_are_refused(read: Reading) -> None:
    angle = np.radians(35)
    with pytest.raises(Unprocessable, match="turned by 35 degrees") as caught:
        read(uploaded(scan(orientation=(np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0))))
    assert caught.value.code == "oblique_series"
