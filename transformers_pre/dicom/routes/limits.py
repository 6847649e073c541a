"""GET `/v1/limits`: what this pod accepts, so that a client need not find out by being refused."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from serving.contracts.ct import MAX_PROMPT, MAX_PROMPTS
from transformers_pre.dicom.settings import DicomSettings
from transformers_pre.dicom.syntaxes import READ


class Limits(BaseModel):
    """The limits of the CT transformer: its settings of the same names, in lower case, then what is no setting."""

    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)

    max_body_bytes: int
    """Largest request body on any route."""
    max_bodies_bytes: int
    """Most bytes of V1, V2 and JSON bodies in memory, of all requests together."""
    max_json_bytes: int
    """Largest JSON of a request, binary tensors not counted."""
    max_json_values: int
    """Most values in that JSON."""
    grpc_max_message_bytes: int
    """Largest gRPC message."""
    max_upload_bytes: int
    """Largest study. In V1's JSON, where it is base64 and a third longer, `max_json_bytes` counts too."""
    max_form_files: int
    """Most files of a form."""
    max_form_fields: int
    """Most text fields of a form."""
    max_form_field_bytes: int
    """Largest text field of a form."""
    max_form_overhead_bytes: int
    """Most of a form besides its files."""
    max_instances: int
    """Most studies of one V1 request."""
    max_files: int
    """Most files in an archive, frames of multi-frame files included."""
    max_inflated_bytes: int
    """Most bytes of them, decompressed."""
    max_file_bytes: int
    """Largest of them, decompressed."""
    max_compression_ratio: int
    """Most decompressed bytes a compressed one."""
    max_matrix: int
    """Most rows and columns of an image."""
    max_decoded_bytes: int
    """Most bytes of the images of one series, decoded."""
    max_extent_mm: float
    """Longest side of the box that they fill."""
    max_header_bytes: int
    """Longest part of a file before its pixel data."""
    max_whole_bytes: int
    """Largest file that is not read frame by frame."""
    max_oblique_degrees: float
    """How far images may be turned against the body's axes."""
    max_tilt_degrees: float
    """How far a gantry may be tilted."""
    max_missing_share: float
    """Slices that may be missing, to those that are there."""
    min_slices: int
    """Fewest slices of a volume."""
    allow_other_body_parts: bool
    """Whether series are read that say that they show the head, an arm or a leg."""
    decode_timeout_seconds: float
    """Time that reading a study may take."""
    decode_memory_bytes: int
    """Memory that one of the processes which read it may take."""
    study_volumes: int
    """Studies that are worked on at a time."""
    study_queue: int
    """Studies that may wait for that."""
    explain_findings: int
    """Most pictures of an explanation."""
    url_timeout_seconds: float
    """Time that fetching a link may take."""
    url_max_redirects: int
    """Most redirects between a link and its study."""
    url_max_characters: int
    """Longest link."""
    dicomweb: bool
    """Whether studies are fetched from DICOMweb servers."""
    request_timeout_seconds: float
    """Time that a whole request may take."""
    max_prompts: int = MAX_PROMPTS
    """Most `prompts`."""
    max_prompt_characters: int = MAX_PROMPT
    """Longest of them."""
    transfer_syntaxes: dict[str, str] = READ
    """What images may be encoded in: UID and name."""


def router(settings: DicomSettings) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["limits"])
    answer = Limits.model_validate(settings)

    @routes.get("/v1/limits")
    async def limits() -> Limits:
        return answer

    return routes
