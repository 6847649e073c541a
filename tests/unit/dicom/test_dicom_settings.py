"""The CT transformer's settings: the library's limits by their own names, and what fits together. What its pod imports."""

import subprocess
import sys
from dataclasses import fields

import pytest

from serving.hardware import usable_cores
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.settings import DicomSettings


def refusal(*flags: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        DicomSettings.from_command_line(flags)
    return str(stopped.value)


def test_the_defaults_are_the_readers() -> None:
    limits, usual = DicomSettings(decode_workers=2).study_limits(), StudyLimits()
    assert limits == usual


def test_every_limit_of_the_reader_is_a_setting() -> None:
    settings = DicomSettings(
        decode_workers=3, study_volumes=4, study_queue=5, decode_memory_bytes=6, decode_timeout_seconds=7, max_files=8,
        max_inflated_bytes=9, max_file_bytes=10, max_compression_ratio=11, max_matrix=12, min_slices=13,
        max_decoded_bytes=14, max_extent_mm=15, allow_other_body_parts=True, max_header_bytes=16, max_whole_bytes=17,
        max_oblique_degrees=18, max_tilt_degrees=19, max_missing_share=0.5,
    )  # fmt: skip
    limits = settings.study_limits()
    assert sorted(getattr(limits, field.name) for field in fields(limits)) == [0.5, True, *range(3, 20)]


def test_all_cores_decode_unless_it_is_said_how_many() -> None:
    assert DicomSettings().study_limits().workers == min(usable_cores(), 8)


def test_500_mib_are_accepted_by_default_and_fit_into_a_body() -> None:
    settings = DicomSettings()
    assert settings.max_upload_bytes == 500 << 20
    assert refusal("--max_upload_bytes=536870912").startswith(
        "MAX_UPLOAD_BYTES is 536870912 and MAX_FORM_OVERHEAD_BYTES is"
    )


def test_a_form_may_hold_as_many_files_as_an_archive() -> None:
    settings = DicomSettings()
    assert settings.form_limits().max_files == settings.max_files == 10_000
    assert settings.max_files * 300 < settings.max_form_overhead_bytes


def test_a_request_with_most_studies_finds_places_for_them() -> None:
    assert DicomSettings(max_instances=5, study_volumes=2, study_queue=3).max_instances == 5
    assert refusal("--max_instances=6", "--study_volumes=2", "--study_queue=3") == (
        "MAX_INSTANCES is 6, STUDY_VOLUMES and STUDY_QUEUE together take 5 studies"
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--min_slices=1", "MIN_SLICES: Input should be greater than or equal to 2"),
        ("--study_queue=0", "STUDY_QUEUE: Input should be greater than or equal to 1"),
        ("--decode_memory_bytes=0", "DECODE_MEMORY_BYTES: Input should be greater than 0"),
        ("--dicomweb_authorization=Basic abc", "DICOMWEB_AUTHORIZATION needs DICOMWEB_ROOT"),
        ("--dicomweb_root=pacs.example.org", "DICOMWEB_ROOT: String should match"),
        ("--dicomweb=perhaps", "DICOMWEB: Input should be a valid boolean"),
    ],
)
def test_a_bad_value_stops_the_start_with_one_line(flag: str, message: str) -> None:
    assert refusal(flag).startswith(message)


def test_what_decodes_is_imported_by_workers_alone() -> None:
    """The pod itself reads no byte of an image, and is small."""
    heavy = {"PIL", "imagecodecs", "isal", "librosa", "pydicom", "scipy", "torch"}
    script = f"""
import sys
import transformers_pre.dicom.pod
print(*{{name.partition(".")[0] for name in sys.modules}} & {heavy!r})
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert (ran.returncode, ran.stderr, ran.stdout.split()) == (0, "", [])
