"""What the text fields of a form, or the parameters of a V1 or V2 request, may hold: the base class of all forms.

Fields that a form does not have are ignored; a value that is not accepted is refused by the field's name. How a form arrives
is `serving.uploads.multipart`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import pydantic
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from serving.errors import InvalidInput, shortened, shown
from serving.uploads import multipart
from serving.uploads.multipart import Fields, FormLimits, Upload


class Form(BaseModel):
    """A form's fields; each has a docstring, which `/docs` shows. A field that is sent empty counts as not sent."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    lists: ClassVar[frozenset[str]] = frozenset()
    """Fields that take every value sent; of the others the last one counts."""
    private: ClassVar[frozenset[str]] = frozenset()
    """Fields whose values no refusal repeats."""
    refused: ClassVar[dict[str, str]] = {}
    """Fields that ask for what is not done here, and what to do instead."""
    file: ClassVar[str] = "The file."
    """What the field `file` takes, for `/docs`."""

    @classmethod
    async def receive(cls, request: Request, limits: FormLimits) -> tuple[Self, Upload]:
        """Reads a request's form. The caller closes the upload; when this raises, nothing of it is left.

        Raises:
            InvalidInput, TooLarge, ClientDisconnect: as `multipart.receive` and `parse` say.
        """
        upload = await multipart.receive(request, limits)
        try:
            return cls.parse(upload.fields), upload
        except BaseException:
            upload.close()
            raise

    @classmethod
    def parse(cls, fields: Fields) -> Self:
        """Validates text fields; `name[]` and `name[key]` are values of `name`.

        Raises:
            InvalidInput: a value that is not accepted, or values that do not go together; `param` is the field.
        """
        values: dict[str, Any] = {}
        sent_as: dict[str, str] = {}
        for sent_name, texts in fields.items():
            name = sent_name.partition("[")[0]
            given = [text for text in texts if text.strip()]
            if not given:
                continue
            if name in cls.refused:
                raise InvalidInput(
                    f"{name} is not supported: {cls.refused[name]}", code="unsupported_field", param=sent_name
                )
            sent_as[name] = sent_name
            values[name] = [*values.get(name, []), *given] if name in cls.lists else given[-1]
        return cls._validated(values, sent_as)

    @classmethod
    def from_values(cls, values: Any) -> Self:
        """Validates JSON values; null and empty text count as not sent. Raises InvalidInput."""
        if not isinstance(values, dict):
            raise InvalidInput("parameters must be an object", param="parameters")
        given = {name: value for name, value in values.items() if value not in (None, "")}
        return cls._validated(given, {name: name for name in given})

    @classmethod
    def _validated(cls, values: dict[str, Any], sent_as: dict[str, str]) -> Self:
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise _refusal(error, sent_as, cls.private) from None

    @classmethod
    def openapi(cls) -> dict[str, Any]:
        """The request body for a route's `openapi_extra`, so that /docs offers the fields."""
        schema = cls.model_json_schema()
        file = {"type": "string", "format": "binary", "description": cls.file}
        schema["properties"] = {multipart.FILE: file, **schema["properties"]}
        schema["required"] = [multipart.FILE]
        return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def json_openapi(model: type[BaseModel], besides: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The JSON body of a route for its `openapi_extra`: the required properties `besides`, and the fields of a model."""
    schema = model.model_json_schema()
    schema["properties"] = {**besides, **schema["properties"]}
    schema["required"] = [*besides, *schema.get("required", ())]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _refusal(error: pydantic.ValidationError, sent_as: dict[str, str], private: frozenset[str]) -> InvalidInput:
    first = error.errors()[0]
    name = sent_as[str(first["loc"][0])]
    reason = first["msg"].removeprefix("Value error, ")
    told = "" if first["loc"][0] in private else f" (got {shown(first['input'])})"
    return InvalidInput(f"{shortened(name)}: {reason}{told}", code="unsupported_value", param=name)
