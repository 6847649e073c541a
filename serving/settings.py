"""Settings of a pod: pydantic-settings classes, one a pod, filled from the environment and KServe's own flags.

A docstring under each field is its description; the tables in the READMEs are generated from them (`serving.reference`).
A value that does not fit stops the start with one line. Precedence: command line, environment, default.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20


class PodSettings(BaseSettings):
    """What every pod has: names, ports, limits of the protocol, keys, shutdown, logs."""

    model_config = SettingsConfigDict(
        env_prefix="",
        extra="ignore",
        use_attribute_docstrings=True,
        populate_by_name=True,
        env_ignore_empty=True,
        allow_inf_nan=False,
    )

    model_name: str = "model"
    """Name of the model in V1 and V2 paths; the InferenceService's name. Flag `--model_name`."""
    k_revision: str = ""
    """Name of the pod's revision, which Knative sets; every answer names it in the header `x-served-by`."""
    http_port: int = Field(8080, ge=0, le=65535, validation_alias=AliasChoices("http_port", "port"))
    """Port of REST (V1, V2, public routes, metrics), also called `PORT`. Flag `--http_port`."""
    grpc_port: int = Field(8081, ge=0, le=65535)
    """Port of V2 over gRPC. Flag `--grpc_port`."""
    enable_grpc: bool = True
    """Whether V2 over gRPC is served. Flag `--enable_grpc`."""
    max_body_bytes: int = Field(1024 * MIB, gt=0)
    """Largest request body on any route; more is refused with 413 before it is read."""
    max_bodies_bytes: int = Field(2048 * MIB, gt=0)
    """Most bytes of V1, V2 and JSON bodies that are in memory at a time, those of V1 and V2 until they are answered; a request
    that would go over is refused with 503 and Retry-After. At least MAX_BODY_BYTES."""
    max_json_bytes: int = Field(36 * MIB, gt=0)
    """Largest JSON of a request, binary tensors not counted; more is refused with 413. Its parsing stops all else
    for 1.5 to 3 ms a MiB, health too; 25 MiB as base64 fit."""
    max_json_values: int = Field(500_000, gt=0)
    """Most values and names in that JSON, and values in typed lists over gRPC; their parsing stops all else for 60 to 120 ns
    each. 30 s of audio as numbers fit."""
    max_websocket_message_bytes: int = Field(16 * MIB, gt=0)
    """Largest message of a WebSocket client; a longer one ends the connection with code 1009."""
    grpc_max_message_bytes: int = Field(64 * MIB, gt=0, lt=2**31)
    """Largest gRPC message, either way. Its parsing stops all else for 1 ms a MiB, health too; larger tensors go over REST."""
    request_timeout_seconds: float = Field(600.0, gt=0)
    """One deadline for a whole request; a client may ask for less with the header `x-request-timeout-seconds`."""
    api_keys: SecretStr = SecretStr("")
    """API keys, separated by commas. With one or more, every route but health and metrics wants `Authorization: Bearer`."""
    api_keys_file: Path | None = None
    """A file with one API key a line (a mounted Secret), besides `API_KEYS`; read again when it changes."""
    grace_seconds: float = Field(30.0, gt=0)
    """After SIGTERM, how long work in flight may go on before it is cut off."""
    log_level: str = Field(
        "INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        validation_alias=AliasChoices("log_level", "logging_level"),
    )
    """Least severe level that is logged: DEBUG, INFO, WARNING or ERROR. Also called `LOGGING_LEVEL`."""
    host: str = "0.0.0.0"  # noqa: S104  # a pod listens on every address
    """Address that REST listens on."""

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"MAX_BODIES_BYTES is {self.max_bodies_bytes}, less than one body of MAX_BODY_BYTES, {self.max_body_bytes}"
            )
        return self

    @classmethod
    def from_command_line(cls, argv: Sequence[str] | None = None) -> Self:
        """Settings from flags (`--name value`, any field) and the environment. Exits with one line on a bad value.

        KServe's controller appends flags that its own server knows; those that mean nothing here are accepted and
        ignored, `--workers` above 1 is refused (a second worker would load the model again and split the metrics).
        """
        arguments = _parse(cls, sys.argv[1:] if argv is None else argv)
        try:
            return cls(**arguments)
        except ValidationError as error:
            first = error.errors()[0]
            problem = first["msg"].removeprefix("Value error, ")
            # Settings that do not fit together name themselves, and the input is then all of them, keys included.
            sys.exit(f"{str(first['loc'][0]).upper()}: {problem} (got {first['input']!r})" if first["loc"] else problem)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.enable_grpc and self.http_port == self.grpc_port != 0:
            raise ValueError(f"HTTP_PORT and GRPC_PORT are both {self.http_port}")
        return self


class PredictorSettings(PodSettings):
    """What every predictor has besides: how requests join into batches."""

    max_batch_size: int = Field(8, ge=1)
    """Items (windows, volumes) that share one call of the engine; not for vLLM, which batches by itself."""
    max_batch_wait_ms: float = Field(5.0, ge=0)
    """How long an incomplete batch waits for company, in milliseconds; not for vLLM."""
    max_queue: int = Field(256, ge=1)
    """Items that may wait, with vLLM those that it works on included; more are refused with 503 and Retry-After."""


class TransformerSettings(PodSettings):
    """What every transformer has besides: where its predictor is and how patient it is."""

    predictor_host: str = Field("127.0.0.1:8081", pattern=r"^([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?$")
    """Host, or host:port, of the predictor. Flag `--predictor_host`; KServe's controller sets it."""
    predictor_model_name: str = ""
    """Name of the model on the predictor where it differs from MODEL_NAME."""
    predictor_use_ssl: bool = False
    """Whether the predictor is called over https. Flag `--predictor_use_ssl`."""
    hop_concurrency: int = Field(4, ge=1)
    """Items (windows, volumes) of one request that are at the predictor at a time."""
    hop_retry_seconds: float = Field(60.0, ge=0)
    """How long a predictor that cannot be reached, or answers 503, is called again before the client gets 503. A call that may
    have begun is not repeated: on Knative, where a pod that just died is a 502, that is 503 at once."""
    hop_connections: int = Field(64, ge=1)
    """Open connections to the predictor, over all requests."""


def _parse(cls: type[PodSettings], argv: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m ...", description=cls.__doc__, allow_abbrev=False)
    for name, field in cls.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, metavar=name.upper())
    parser.add_argument("--workers", type=int, default=1, help="always 1: one process holds the model")
    known, unknown = parser.parse_known_args(argv)
    arguments = vars(known)
    if arguments.pop("workers") != 1:
        sys.exit("--workers must be 1: scale with replicas, each process would load the model again")
    for flag in unknown:
        if flag.startswith("--") and not _is_kserve_flag(flag):
            sys.exit(f"unknown flag {flag.split('=')[0]}")
    return arguments


def _is_kserve_flag(flag: str) -> bool:
    from kserve.model_server import parser  # noqa: PLC0415  # importing KServe takes a second; only odd flags pay it

    return flag.split("=", maxsplit=1)[0] in parser._option_string_actions  # noqa: SLF001  # argparse has no public list of flags
