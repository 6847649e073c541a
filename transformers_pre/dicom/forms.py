"""What a client may ask of a study: the fields of the form, of the JSON body and of V1 and V2 parameters.

How a form arrives and is validated is `serving.uploads`; what a head is, the contract says.
"""

import re
from typing import Annotated, Any, BinaryIO, ClassVar, Self

import pydantic
from pydantic import AfterValidator

from serving.contracts import ct
from serving.contracts.ct import CtOptions
from serving.contracts.parameters import options_from
from serving.errors import InvalidInput
from serving.uploads import multipart
from serving.uploads.form import Form
from transformers_pre.dicom.pipeline import StudyRequest, Volume

_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_UID_CHARACTERS = 64  # PS3.5, 9.1


def _uid(text: str) -> str:
    text = text.strip()
    if len(text) > _UID_CHARACTERS or not _UID.fullmatch(text):
        raise ValueError("a UID is numbers joined by dots, 64 characters at most")
    return text


class StudyForm(Form):
    """What is to be read from a study."""

    lists: ClassVar[frozenset[str]] = frozenset({"heads", "prompts"})
    private: ClassVar[frozenset[str]] = frozenset({"series_uid", "prompts"})
    file: ClassVar[str] = (
        "The study: a ZIP, a tar or tar.gz of DICOM files, or one multi-frame DICOM file; DICOM files one by one, when the field "
        "is sent more than once."
    )

    heads: tuple[str, ...] = ()
    """What to read: zero_shot, vocabfine, classfine, supervised, prompts, risk; all that the predictor has, when left out.
    Several are sent one by one, or with commas."""
    prompts: tuple[str, ...] = ()
    """Findings in words of one's own, one a value, such as `Pneumothorax`; for predictors with KEEP_TEXT_ENCODER."""
    explain: bool = False
    """Whether the answer has a picture for each finding: where in the volume its probability comes from."""
    series_uid: Annotated[str, AfterValidator(_uid)] | None = None
    """SeriesInstanceUID of the series to read; the best one, when left out."""

    @pydantic.field_validator("heads", "prompts", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _goes_together(self) -> Self:
        wanted = self.options().wanted  # a head that there is not is refused here
        ct.check_prompts(list(self.prompts), "prompts")
        if wanted and self.prompts and "prompts" not in wanted:
            raise InvalidInput("there are prompts, but heads leaves 'prompts' out", param="heads")
        if "prompts" in wanted and not self.prompts:
            raise InvalidInput("heads names 'prompts', but there are none", param="prompts")
        return self

    def options(self) -> CtOptions:
        """What the predictor is told. Raises InvalidInput."""
        return options_from({"heads": ",".join(self.heads), "explain": self.explain}, CtOptions, ct.NAME)

    def request(self, source: "BinaryIO | Volume", parts: tuple[range, ...] = ()) -> StudyRequest:
        """What the pipeline is asked to do with `source`; `parts` are the files of an upload of several."""
        return StudyRequest(
            source=source,
            parts=[(part.start, len(part)) for part in parts] if len(parts) > 1 else None,
            series_uid=self.series_uid,
            options=self.options(),
            prompts=self.prompts,
        )

    @classmethod
    def openapi(cls) -> dict[str, Any]:
        """The form's body, and the JSON one, for a route's `openapi_extra`."""
        described = super().openapi()
        contents = described["requestBody"]["content"]
        contents["application/json"] = {"schema": _json_schema(contents["multipart/form-data"]["schema"])}
        return described


def _json_schema(form: dict[str, Any]) -> dict[str, Any]:
    fields = {name: field for name, field in form["properties"].items() if name != multipart.FILE}
    text = {"type": "string", "format": "uri"}
    links = {
        "url": {**text, "description": "Where the study is fetched from: http(s), a public address."},
        "dicomweb": {
            **text,
            "description": "Instead of `url`, of pods with DICOMWEB: a study or series at a DICOMweb server (WADO-RS).",
        },
    }
    return {"type": "object", "properties": {**links, **fields}}
