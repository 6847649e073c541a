"""A whole service as two processes: predictor and transformer. For integration tests and benches."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.pods import Pod

MODELS = Path(__file__).parent / "models"
"""Small models of real architectures: `gigaam`, `vosk5`. What they know is in `tests.russian`."""
STARTING_SECONDS = 400  # vLLM imports for a minute on two slow cores, in each of its processes


@dataclass
class Service:
    """Both pods. `url` is the transformer's."""

    predictor: Pod
    transformer: Pod

    @property
    def url(self) -> str:
        """Where clients call."""
        return self.transformer.url

    @property
    def live_url(self) -> str:
        """Where live clients call: `ws://…`."""
        return self.url.replace("http", "ws", 1)

    def transcribe(self, audio: bytes, *, timeout: float = 600, **fields: Any) -> httpx.Response:
        """POST /v1/audio/transcriptions."""
        data = {"model": "whisper", **fields}
        return httpx.post(f"{self.url}/v1/audio/transcriptions", files={"file": audio}, data=data, timeout=timeout)


def whisper(
    threads: int = 2, env: Mapping[str, str] | None = None, **transformer_flags: Any
) -> contextlib.AbstractContextManager[Service]:
    """The Whisper service with Whisper-base's real weights on the CPU, int8 unless `env` says otherwise; both pods ready."""
    variables = {"MODEL_ID": "demo:whisper-base", "NUM_THREADS": str(threads), **(env or {})}
    return _service("predictors.whisper", "whisper", variables, transformer_flags)


def kaldi(
    model: str = "gigaam", threads: int = 1, env: Mapping[str, str] | None = None, **transformer_flags: Any
) -> contextlib.AbstractContextManager[Service]:
    """The streaming service with one of the small models of `tests/models`; both pods ready."""
    variables = {"MODEL_ID": str(MODELS / model), "NUM_THREADS": str(threads), **(env or {})}
    return _service("predictors.kaldi_asr", model, variables, transformer_flags)


def captions(
    env: Mapping[str, str] | None = None, **transformer_flags: Any
) -> contextlib.AbstractContextManager[Service]:
    """The captioning service, with random weights unless `env` names others; both pods ready."""
    variables = {"MODEL_ID": "demo:random", "NUM_THREADS": "2", "DEVICE": "cpu", **(env or {})}
    return _service("predictors.audio_caption", "sounds", variables, {"pipeline": "caption", **transformer_flags})


def chest_ct(
    predictor: str = "tests.ct_pod", env: Mapping[str, str] | None = None, **transformer_flags: Any
) -> contextlib.AbstractContextManager[Service]:
    """The chest-CT service, both pods ready; its engine is the contract's fake, unless `predictor` is another pod's module.

    `env` is for both pods.
    """
    return _both(Pod(predictor, "ct", env), "transformers_pre.dicom", env, transformer_flags)


def _service(
    module: str, name: str, variables: Mapping[str, str], flags: Mapping[str, Any]
) -> contextlib.AbstractContextManager[Service]:
    return _both(Pod(module, name, variables), "transformers_pre.audio", None, flags)


@contextlib.contextmanager
def _both(predictor: Pod, module: str, env: Mapping[str, str] | None, flags: Mapping[str, Any]) -> Iterator[Service]:
    """A predictor and its transformer of `module`, once both are ready and the transformer has heard of the other's device."""
    address = predictor.url.removeprefix("http://")
    with predictor, Pod(module, predictor.model_name, env, **{"predictor_host": address, **flags}) as transformer:
        predictor.until_ready(STARTING_SECONDS)
        service = Service(predictor, transformer.until_ready(STARTING_SECONDS))
        transformer.until(
            lambda: httpx.get(f"{service.url}/health", trust_env=False).json()["device"], "its predictor's device"
        )
        yield service
