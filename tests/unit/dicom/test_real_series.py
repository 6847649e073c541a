"""20 slices of a real scan (Siemens, JPEG 2000), which `make test` fetches: the volume that the original would make of them.

They are decoded by another library for that, GDCM in SimpleITK. Where nothing can be fetched, a generated series alone stands in:
the tests' names say which, `real` or `generated`.
"""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.ct_series import siemens, stored, tarred, zipped
from tests.unit.dicom.conftest import Reading

REAL = Path(__file__).parents[3] / ".data/ct-series/example_ct_dicom"
ORIGINAL = 3e-4
"""How far values may be from the original's, 1 being 1000 HU: it resamples in float64."""


@pytest.fixture(scope="module", params=[*(["real"] if REAL.is_dir() else []), "generated"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file a slice."""
    if request.param == "real":
        return REAL
    made = tmp_path_factory.mktemp("series")
    for number, data in enumerate(siemens()):
        (made / f"{number:02d}.dcm").write_bytes(data)
    return made


@pytest.fixture(scope="module")
def files(folder: Path) -> list[bytes]:
    found = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert len(found) == 20
    return found


def test_the_volume_is_the_originals(read: Reading, folder: Path, files: list[bytes]) -> None:
    from tests import ct_reference

    study = read(stored(zipped(files)))
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)), sitk.sitkFloat64)
    hu = sitk.GetArrayFromImage(image)
    columns, rows, slices = image.GetSpacing()
    expected = ct_reference.volume(hu, (round(slices, 5), rows, columns))
    assert np.abs(study.volume - expected).max() <= ORIGINAL
    assert study.volume.std() > 0.1


def test_what_was_read_is_told(read: Reading, files: list[bytes]) -> None:
    report = read(stored(tarred(files, "w:gz"))).report
    assert report["slices"] == {
        "received": 20,
        "used": 20,
        "dropped": [],
        "interpolated_at_mm": [],
        "transfer_syntaxes": ["JPEG 2000 Lossless"],
    }
    geometry = report["geometry"]
    assert (geometry["plane"], geometry["turned"], geometry["tilt_degrees"]) == ("axial", False, 0)
    assert geometry["spacing_mm"] == pytest.approx([2.0, 0.9766, 0.9766], abs=1e-4)  # slices are 3 mm thick
    assert geometry["coverage_mm"][0] == pytest.approx(40.0, abs=0.1)
    assert any("40 mm" in warning for warning in report["warnings"])
