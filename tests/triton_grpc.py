"""What the stock V2 gRPC client gets from a pod, as JSON: `python -m tests.triton_grpc ADDRESS MODEL`.

A process of its own: `tritonclient.grpc` and `kserve` each register the same protobuf messages, so no process holds both.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def _inputs(audio: npt.NDArray[np.float32]) -> list[triton.InferInput]:
    made = triton.InferInput("AUDIO", list(audio.shape), "FP32")
    made.set_data_from_numpy(audio)
    lengths = triton.InferInput("LENGTHS", [len(audio)], "INT32")
    lengths.set_data_from_numpy(np.full(len(audio), audio.shape[1], np.int32))
    return [made, lengths]


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InferenceServerException as error:
        return {"status": error.status().removeprefix("StatusCode."), "message": error.message()}


def main() -> None:
    """Entry point."""
    address, model = sys.argv[1:]
    second = np.full((1, 16000), 0.1, np.float32)

    with triton.InferenceServerClient(address) as client:

        def infer(audio: npt.NDArray[np.float32] = second, **options: Any) -> dict[str, Any]:
            name = options.pop("model", model)
            result = client.infer(name, _inputs(audio), **options)
            answer = result.get_response(as_json=True)
            rows = [json.loads(row) for row in result.as_numpy("RESULT").tolist()]
            return {"id": answer.get("id"), "parameters": answer.get("parameters"), "rows": rows}

        outcomes = {
            "live": client.is_server_live,
            "ready": client.is_server_ready,
            "model ready": lambda: client.is_model_ready(model),
            "metadata": lambda: client.get_model_metadata(model, as_json=True),
            "answer": lambda: infer(request_id="id-8", parameters={"language": "ru"}),
            "12 MiB": lambda: infer(np.zeros((1, 3 << 20), np.float32)),
            "no key": infer,
            "key": lambda: infer(headers={"authorization": "Bearer key-1"}),
            "other model": lambda: infer(model="other"),
            "version": lambda: infer(model_version="2"),
            "version's readiness": lambda: client.is_model_ready(model, "7"),
            "version's metadata": lambda: client.get_model_metadata(model, "7"),
            "bad parameter": lambda: infer(parameters={"beam_size": 99}),
            "refused window": lambda: infer(second * 10),
            "fault": lambda: infer(parameters={"prompt": "explode"}),
            "unload": lambda: client.unload_model(model),
            "load": lambda: client.load_model(model),
            "still there": infer,
        }
        print(json.dumps({name: _outcome(call) for name, call in outcomes.items()}))


if __name__ == "__main__":
    main()
