"""A service as its clients see it: through the ingress gateway, told apart by the Host header."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
import tritonclient.http as triton

CALL_SECONDS = 120.0
QUICK = {"language": "en", "beam_size": "1"}
"""Options that make a call cheap, for tests that send hundreds."""


@dataclass(frozen=True)
class Outcome:
    """What became of one call."""

    status: int
    """HTTP status; 0 without an answer."""
    begun: float
    """By the monotonic clock."""
    seconds: float
    served_by: tuple[str, ...] = ()
    """Revisions that the answer names."""
    body: str = ""
    """What came back; without an answer, the kind of failure."""
    retry_after: str | None = None


@dataclass(frozen=True)
class Gateway:
    """One InferenceService behind the gateway."""

    url: str
    host: str
    model: str

    def http(self, seconds: float = CALL_SECONDS) -> httpx.Client:
        """A plain client of the service, that waits so long for an answer."""
        return httpx.Client(base_url=self.url, headers={"Host": self.host}, timeout=seconds, trust_env=False)

    def openai(self) -> openai.OpenAI:
        """OpenAI's client, without its retries, so that it hides nothing."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            default_headers={"Host": self.host},
            max_retries=0,
            timeout=CALL_SECONDS,
        )

    @contextmanager
    def triton(self) -> Iterator[triton.InferenceServerClient]:
        """Triton's client. Its calls want `headers=gateway.headers`."""
        address = self.url.removeprefix("http://")
        with triton.InferenceServerClient(address, network_timeout=CALL_SECONDS) as client:
            yield client

    @property
    def headers(self) -> dict[str, str]:
        """For clients that take headers with each call."""
        return {"Host": self.host}

    def transcribe(self, client: httpx.Client, audio: bytes) -> Outcome:
        """One quick call of OpenAI's route, by a client that other threads do not use."""
        return _outcome(client, "/v1/audio/transcriptions", audio, {"model": self.model, **QUICK})

    def read(self, client: httpx.Client, study: bytes) -> Outcome:
        """One call of the chest-CT service's route."""
        return _outcome(client, "/predict", study, {})


def _outcome(client: httpx.Client, path: str, file: bytes, fields: dict[str, str]) -> Outcome:
    begun = time.monotonic()
    try:
        answer = client.post(path, files={"file": file}, data=fields)
    except httpx.HTTPError as error:
        return Outcome(0, begun, time.monotonic() - begun, body=type(error).__name__)
    return Outcome(
        answer.status_code,
        begun,
        time.monotonic() - begun,
        tuple(answer.headers.get("x-served-by", "").split(", ")),
        answer.text,
        answer.headers.get("retry-after"),
    )
