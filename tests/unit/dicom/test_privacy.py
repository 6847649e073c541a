"""Nobody is named: marker values in every tag and every name reach no message, no report and no log.

The negative control: the same search finds the marker in the upload itself.
"""

import json
import logging

import pytest
from pydicom.uid import JPEGExtended12Bit

from serving.errors import ServingError
from tests.ct_privacy import FAULTS, MARKER, marked, private
from tests.ct_series import ENCODERS, dicom, scan, stored, zipped
from tests.unit.dicom.conftest import Reading


@pytest.mark.parametrize("fault", FAULTS)
def test_no_message_report_or_log_names_anybody(
    read: Reading, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    images = [marked(image) for image in scan()]
    FAULTS[fault](images)
    upload = zipped((dicom(image) for image in images), names=f"{MARKER}/{{:04d}}.dcm")
    assert MARKER.encode() in upload
    assert private(str(images[0]), images)  # the search finds what there is
    with caplog.at_level(logging.DEBUG):
        said = outcome(read, upload)
    captured = capfd.readouterr()
    everything = "\n".join([said, caplog.text, captured.out, captured.err])
    assert len(said) > 20
    assert private(everything, images) == []


def outcome(read: Reading, upload: bytes) -> str:
    """The report or the refusal."""
    try:
        return json.dumps(read(stored(upload)).report)
    except ServingError as error:
        return f"{error.code} {error.message}"


def test_a_transfer_syntax_of_ones_own_is_not_repeated(read: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, JPEGExtended12Bit, lambda _pixels: b"\xff\xd8\xff\xd9")
    data = dicom(scan(count=1)[0], JPEGExtended12Bit).replace(b"1.2.840.10008.1.2.4.51", b"1.2.840.99999.1.2.4.51")
    said = outcome(read, zipped([data]))
    assert "one that the standard does not know" in said
    assert "99999" not in said
