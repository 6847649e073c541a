"""Starts the Whisper service on this machine, sends one recording by three stock clients, prints what comes back, stops.

The recording is half a minute of a telephone call between two people (pyannote.audio's sample, MIT).
"""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openai
import tritonclient.http as triton

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / ".data/recordings/pyannote/audio/sample/sample.wav"


def by_openai(url: str, audio: bytes) -> str:
    """(a) The OpenAI client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        return client.audio.transcriptions.create(file=("call.wav", audio), model="whisper").text


def by_v1(url: str, audio: bytes) -> str:
    """(b) KServe's V1 protocol: JSON over HTTP, nothing but the standard library."""
    body = {"instances": [{"audio": {"b64": base64.b64encode(audio).decode()}}]}
    request = urllib.request.Request(
        f"{url}/v1/models/whisper:predict", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["predictions"][0]["text"]


def by_v2(url: str, audio: bytes) -> str:
    """(c) The V2 protocol with a binary tensor, by Triton's client."""
    tensor = triton.InferInput("AUDIO_FILE", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([audio], np.object_))
    with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=600) as client:
        return client.infer("whisper", [tensor]).as_numpy("TEXT")[0].decode()


def start(port: int, log: Path) -> subprocess.Popen[str]:
    """Both pods; returns once they are ready."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.local", "whisper", "--port", str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    line = process.stdout.readline() if process.stdout else ""
    if not line.startswith("ready"):
        sys.exit(f"the service did not start:\n{log.read_text()}")
    return process


def main() -> None:
    """Entry point."""
    port = int(os.environ.get("PORT", "8000"))
    url = f"http://127.0.0.1:{port}"
    clients: dict[str, Callable[[str, bytes], str]] = {
        "openai client   POST /v1/audio/transcriptions": by_openai,
        "V1 protocol     POST /v1/models/whisper:predict": by_v1,
        "tritonclient    POST /v2/models/whisper/infer": by_v2,
    }
    audio = RECORDING.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        print("starting predictor and transformer ...", flush=True)
        process = start(port, Path(folder) / "log")
        try:
            print(
                f"ready after {time.perf_counter() - begun:.1f} s; sending {RECORDING.name}, 30 s of a telephone call\n"
            )
            for name, call in clients.items():
                begun = time.perf_counter()
                text = call(url, audio)
                print(f"{name}  {time.perf_counter() - begun:.1f} s\n  {text}\n", flush=True)
                if not text:
                    sys.exit("no transcript came back")
            print(
                f"Leave it running with `make serve MODEL=whisper`; the API is described at http://127.0.0.1:{port}/docs"
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    main()
