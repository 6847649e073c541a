"""Settings of a transformer that takes files: how large they and their forms may be, and where links may lead."""

from typing import Self

from pydantic import Field, model_validator

from serving.errors import InvalidInput, TooLarge
from serving.settings import MIB, TransformerSettings
from serving.uploads.fetch import AllowList, FetchLimits
from serving.uploads.multipart import FormLimits


class UploadSettings(TransformerSettings):
    """What every transformer has that takes files."""

    max_body_bytes: int = Field(256 * MIB, gt=0)
    """Largest request body on any route; more is refused with 413 before it is read."""
    max_upload_bytes: int = Field(25 * MIB, gt=0)
    """Largest file, uploaded, linked or inside JSON. In V1's JSON it is base64, a third longer, and MAX_JSON_BYTES counts too:
    the smaller of both is the limit there."""
    max_form_fields: int = Field(64, ge=1)
    """Most text fields of a form; OpenAI's whole vocabulary is under 20."""
    max_form_field_bytes: int = Field(64 << 10, gt=0)
    """Largest text field of a form."""
    max_form_overhead_bytes: int = Field(MIB, gt=0)
    """Most of a form besides its file: all text fields, part headers, boundaries."""
    max_instances: int = Field(64, ge=1)
    """Most files of one V1 or V2 request; each is decoded and takes places at the predictor."""
    url_allow: str = ""
    """Hosts, addresses or networks (CIDR), separated by commas, that links may point to although they are private."""
    url_timeout_seconds: float = Field(60.0, gt=0)
    """Time that fetching a link may take."""
    url_max_redirects: int = Field(5, ge=0)
    """Most redirects between a link and its file."""
    url_max_characters: int = Field(8192, gt=0, le=65536)
    """Longest link; signed ones to object stores take about 2000."""

    @model_validator(mode="after")
    def _uploads_fit(self) -> Self:
        """Settings that are each valid may leave no room for a form, or name no network: said at the start."""
        self.fetch_limits()
        if self.max_upload_bytes + self.max_form_overhead_bytes > self.max_body_bytes:
            raise ValueError(
                f"MAX_UPLOAD_BYTES is {self.max_upload_bytes} and MAX_FORM_OVERHEAD_BYTES is {self.max_form_overhead_bytes}, "
                f"such a form does not fit into MAX_BODY_BYTES, which is {self.max_body_bytes}"
            )
        return self

    def form_limits(self) -> FormLimits:
        """The limits of an upload."""
        return FormLimits(
            max_upload_bytes=self.max_upload_bytes,
            max_fields=self.max_form_fields,
            max_field_bytes=self.max_form_field_bytes,
            max_overhead_bytes=self.max_form_overhead_bytes,
        )

    def fetch_limits(self) -> FetchLimits:
        """The limits of fetching a link."""
        return FetchLimits(
            max_upload_bytes=self.max_upload_bytes,
            timeout_seconds=self.url_timeout_seconds,
            max_redirects=self.url_max_redirects,
            max_characters=self.url_max_characters,
            allow=AllowList.parse(self.url_allow),
        )

    def check_count(self, count: int) -> None:
        """Raises InvalidInput or TooLarge unless a V1 or V2 request may hold `count` files."""
        most = self.max_instances
        if not count:
            raise InvalidInput(
                f"the request holds nothing, 1 to {most} items are accepted (MAX_INSTANCES)", code="no_items"
            )
        if count > most:
            raise TooLarge(
                f"the request holds {count} items, 1 to {most} are accepted (MAX_INSTANCES)", code="too_many_items"
            )
