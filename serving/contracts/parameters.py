"""Parameters of a request, of either protocol, as the options of a contract."""

from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from serving.errors import InvalidInput, shown

O = TypeVar("O", bound=BaseModel)  # noqa: E741


def options_from(parameters: dict[str, Any], model: type[O], contract: str) -> O:
    """Validates request parameters of `contract`. Raises InvalidInput that names the field at fault."""
    spoken = parameters.get("contract", contract)
    if spoken != contract:
        raise InvalidInput(
            f"contract {shown(spoken)} is not spoken here, this predictor speaks {contract!r}",
            code="unknown_contract",
            param="contract",
        )
    try:
        return model.model_validate(parameters)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"parameter {field!r}: {reason}", param=field) from None


def v1_parameters(body: dict[str, Any]) -> dict[str, Any]:
    """`parameters` of a V1 body. Raises InvalidInput."""
    parameters = {} if body.get("parameters") is None else body["parameters"]
    if not isinstance(parameters, dict):
        raise InvalidInput("'parameters' must be an object", param="parameters")
    return parameters
