"""A whole service as two processes: predictor and transformer. For integration tests and benches."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.pods import Pod

_STARTING_SECONDS = 400  # vLLM imports for a minute on two slow cores, in each of its processes


@dataclass
class Service:
    """Both pods. `url` is the transformer's."""

    predictor: Pod
    transformer: Pod

    @property
    def url(self) -> str:
        """Where clients call."""
        return self.transformer.url

    def transcribe(self, audio: bytes, **fields: Any) -> httpx.Response:
        """POST /v1/audio/transcriptions."""
        data = {"model": "whisper", **fields}
        return httpx.post(f"{self.url}/v1/audio/transcriptions", files={"file": audio}, data=data, timeout=600)


@contextlib.contextmanager
def whisper(threads: int = 2, env: Mapping[str, str] | None = None, **transformer_flags: Any) -> Iterator[Service]:
    """The Whisper service with Whisper-base's real weights on the CPU, int8 unless `env` says otherwise; both pods ready."""
    variables = {"MODEL_ID": "demo:whisper-base", "NUM_THREADS": str(threads), **(env or {})}
    with Pod("predictors.whisper", "whisper", variables) as predictor:
        address = predictor.url.removeprefix("http://")
        flags = {"predictor_host": address, **transformer_flags}
        with Pod("transformers_pre.audio", "whisper", **flags) as transformer:
            predictor.until_ready(_STARTING_SECONDS)
            yield Service(predictor, transformer.until_ready())
