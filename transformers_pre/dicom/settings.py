"""Settings of the CT transformer: what an upload may be, and what reading it may take."""

from dataclasses import replace
from typing import Self

from pydantic import Field, SecretStr, model_validator

from serving.hardware import usable_cores
from serving.settings import MIB
from serving.uploads.multipart import FormLimits
from serving.uploads.settings import UploadSettings
from transformers_pre.dicom.limits import StudyLimits

_MOST_WORKERS = 8
"""What DECODE_WORKERS=0 takes at most: each is a process of 60 MB, and decoding is a second's work for so many."""


class DicomSettings(UploadSettings):
    """The CT transformer: uploads, reading of studies, explanations."""

    max_body_bytes: int = Field(512 * MIB, gt=0)
    """Largest request body on any route; more is refused with 413 before it is read."""
    max_bodies_bytes: int = Field(1024 * MIB, gt=0)
    """Most bytes of V1, V2 and JSON bodies that are in memory at a time, until they are answered; a request that would go over is
    refused with 503 and Retry-After. Forms and links are on disk. At least MAX_BODY_BYTES."""
    max_upload_bytes: int = Field(500 * MIB, gt=0)
    """Largest study, uploaded (all of its files together), linked or inside JSON. In V1's JSON it is base64, a third longer, and
    MAX_JSON_BYTES counts too: the smaller of both is the limit there."""
    max_form_files: int = Field(StudyLimits.max_files, ge=1)
    """Most files of a form, and most parts of a DICOMweb answer."""
    max_form_fields: int = Field(300, ge=1)
    """Most text fields of a form; each prompt is one, and a request may have 256."""
    max_form_overhead_bytes: int = Field(4 * MIB, gt=0)
    """Most of a form besides its files: all text fields, part headers, boundaries; of a DICOMweb answer likewise. A part's header
    takes 150 to 300 bytes."""
    max_instances: int = Field(4, ge=1)
    """Most studies of one V1 request; V2 takes one."""
    max_files: int = Field(StudyLimits.max_files, ge=1)
    """Most files of an upload, frames of multi-frame files included."""
    max_inflated_bytes: int = Field(StudyLimits.max_inflated_bytes, gt=0)
    """Most bytes of an upload's files, decompressed."""
    max_file_bytes: int = Field(StudyLimits.max_file_bytes, gt=0)
    """Largest file of an upload, decompressed."""
    max_compression_ratio: int = Field(StudyLimits.max_ratio, ge=1)
    """Decompressed bytes to compressed ones, over a whole archive: what is above is a bomb, no images."""
    max_matrix: int = Field(StudyLimits.max_matrix, ge=1)
    """Most rows and columns of an image."""
    max_decoded_bytes: int = Field(StudyLimits.max_decoded_bytes, gt=0)
    """Most bytes of the images of one series, decoded; 512 KiB each, usually."""
    max_extent_mm: float = Field(StudyLimits.max_extent_mm, gt=0)
    """Longest side of the box that the images of a series fill, in mm: no patient is longer."""
    max_header_bytes: int = Field(StudyLimits.max_header_bytes, gt=0)
    """Longest part of a file before its pixel data; the functional groups of a thousand frames take a few MB. A file with more
    is left out."""
    max_whole_bytes: int = Field(StudyLimits.max_whole_bytes, gt=0)
    """Largest file, decompressed, that is held in memory as a whole: one image, or a deflated data set. Frames of larger files
    are read one by one."""
    max_oblique_degrees: float = Field(StudyLimits.max_oblique_degrees, ge=0, le=45)
    """How far images may be turned against the body's axes; the volume stays turned as they are."""
    max_tilt_degrees: float = Field(StudyLimits.max_tilt_degrees, ge=0, le=45)
    """How far a gantry may be tilted; scanners reach 30 degrees. The volume stays turned by it."""
    max_missing_share: float = Field(StudyLimits.max_missing_share, ge=0, le=0.5)
    """Slices that may be missing and are interpolated, to those that are there: a tenth, at least one unless it is 0, and each
    between two that are there."""
    min_slices: int = Field(StudyLimits.min_slices, ge=2)
    """Fewest slices of a volume."""
    allow_other_body_parts: bool = False
    """Whether series are read whose headers (BodyPartExamined, AnatomicRegionSequence) say that they show the head, an arm or a
    leg; by default they are refused with 422. Neighbours of the chest and labels that are not known are read either way."""
    decode_workers: int = Field(0, ge=0)
    """Processes that decode, all of them one study at a time; 0 for every core that the container may use, 8 at most."""
    decode_memory_bytes: int = Field(StudyLimits.memory_bytes, gt=0)
    """Memory that one decoding process may take, the shared volume (221 MB) not counted; a study that wants more is refused
    with 422."""
    decode_timeout_seconds: float = Field(StudyLimits.timeout_seconds, gt=0)
    """Time that reading one study may take, its wait not counted."""
    study_volumes: int = Field(StudyLimits.volumes, ge=1)
    """Volumes, 221 MB each, that are held at a time: the one that is made, and those that are with the predictor."""
    study_queue: int = Field(StudyLimits.queue, ge=1)
    """Studies that may wait to be read, on disk; more are refused with 503 and Retry-After."""
    hop_concurrency: int = Field(4, ge=1)
    """Has no effect here: STUDY_VOLUMES says how many volumes are at the predictor at a time."""
    explain_findings: int = Field(18, ge=1)
    """Most findings that an explanation draws, those with the highest logits; a picture is 400 KB or so."""
    dicomweb: bool = False
    """Whether `/predict` takes `{"dicomweb": …}`, the address of a study or series at a DICOMweb server (WADO-RS). What is said
    of links holds for it: private addresses want URL_ALLOW."""
    dicomweb_root: str = Field("", pattern=r"^(https?://[^\s?#@]+)?$")
    """Address of the one DICOMweb server that studies may come from, up to its `/studies`; empty allows any."""
    dicomweb_authorization: SecretStr = SecretStr("")
    """`Authorization` header for the server at DICOMWEB_ROOT, such as `Basic …` or `Bearer …`; a redirect to another host goes
    without it."""

    @model_validator(mode="after")
    def _studies_fit(self) -> Self:
        """The studies of one request must find places."""
        taken = self.study_volumes + self.study_queue
        if self.max_instances > taken:
            raise ValueError(
                f"MAX_INSTANCES is {self.max_instances}, STUDY_VOLUMES and STUDY_QUEUE together take {taken} studies"
            )
        return self

    @model_validator(mode="after")
    def _credentials_have_an_owner(self) -> Self:
        """A client chooses the address: credentials must not go wherever it points."""
        if self.dicomweb_authorization.get_secret_value() and not self.dicomweb_root:
            raise ValueError("DICOMWEB_AUTHORIZATION needs DICOMWEB_ROOT, the server that it is for")
        return self

    def form_limits(self) -> FormLimits:
        """The limits of an upload, of several files."""
        return replace(super().form_limits(), max_files=self.max_form_files)

    def study_limits(self) -> StudyLimits:
        """The reader's limits."""
        return StudyLimits(
            workers=self.decode_workers or min(usable_cores(), _MOST_WORKERS),
            volumes=self.study_volumes,
            queue=self.study_queue,
            memory_bytes=self.decode_memory_bytes,
            timeout_seconds=self.decode_timeout_seconds,
            max_files=self.max_files,
            max_inflated_bytes=self.max_inflated_bytes,
            max_file_bytes=self.max_file_bytes,
            max_ratio=self.max_compression_ratio,
            max_matrix=self.max_matrix,
            max_decoded_bytes=self.max_decoded_bytes,
            max_extent_mm=self.max_extent_mm,
            max_header_bytes=self.max_header_bytes,
            max_whole_bytes=self.max_whole_bytes,
            max_oblique_degrees=self.max_oblique_degrees,
            max_tilt_degrees=self.max_tilt_degrees,
            max_missing_share=self.max_missing_share,
            min_slices=self.min_slices,
            other_body_parts=self.allow_other_body_parts,
        )
