"""What the stock V2 gRPC client gets from the audio transformer, as JSON: `python -m tests.integration.speech_grpc ADDRESS`.

A process of its own, for the reason that `tests.triton_grpc` gives.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.bench.speech import RATE
from tests.integration.clips import FOX, FRENCH, HELLO, clip, samples


def tensor(name: str, array: Any, kind: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def main() -> None:
    """Entry point."""
    with triton.InferenceServerClient(sys.argv[1]) as client:

        def infer(*inputs: triton.InferInput, **parameters: Any) -> dict[str, Any]:
            try:
                answer = client.infer("whisper", list(inputs), parameters=parameters)
            except InferenceServerException as error:
                return {"status": error.status().removeprefix("StatusCode."), "message": error.message()}
            texts, languages = ([each.decode() for each in answer.as_numpy(name)] for name in ("TEXT", "LANGUAGE"))
            return {"texts": texts, "languages": languages, "durations": answer.as_numpy("DURATION").tolist()}

        telephone = soxr.resample(samples(FOX), RATE, 8_000).astype(np.float32)
        outcomes: dict[str, Callable[[], Any]] = {
            "ready": lambda: client.is_model_ready("whisper"),
            "files": lambda: infer(tensor("AUDIO_FILE", np.array([clip(HELLO), clip(FRENCH)], np.object_), "BYTES")),
            "samples": lambda: infer(tensor("AUDIO", telephone[None], "FP32"), sample_rate=8_000),
            "junk": lambda: infer(tensor("AUDIO_FILE", np.array([b"no recording"], np.object_), "BYTES")),
            "no such language": lambda: infer(
                tensor("AUDIO_FILE", np.array([clip(HELLO)], np.object_), "BYTES"), language="xx"
            ),
        }
        print(json.dumps({name: outcome() for name, outcome in outcomes.items()}))


if __name__ == "__main__":
    main()
