"""A predictor pod for tests of the server: its engine does what a window's prompt says, and waits at a gate.

SIGUSR1 opens the gate, SIGUSR2 closes it. `python -m tests.gated_pod --model_name gated …`
"""

import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, UploadFile, WebSocket
from fastapi.responses import StreamingResponse

from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrResult
from serving.dialects import openai_body
from serving.errors import ServingError
from serving.predictor import Predictor
from serving.server import serve
from serving.settings import PredictorSettings
from serving.testing import FakeRecognizer
from tests.servers import until

SECRET = "secret path /x"  # what must never reach a client


class GatedSettings(PredictorSettings):
    """Settings of the gated pod."""

    load: Literal["ok", "gate", "value_error", "os_error"] = "ok"
    """What loading does: it ends, waits at the gate, or fails."""
    refuse_above: float = 1e9
    """Loudest sample that is not refused."""
    warm_up: Literal["ok", "explode"] = "ok"
    """What the first call of the engine does."""


class GatedRecognizer(FakeRecognizer):
    """`explode` raises, `gate` waits at the gate, `busy` computes for two seconds; anything else is the fake's answer."""

    def __init__(self, settings: GatedSettings):
        super().__init__(refuse_above=settings.refuse_above)
        self.gate = threading.Event()
        self._settings = settings

    def load(self) -> None:
        match self._settings.load:
            case "gate":
                subprocess.Popen(["sleep", "600"])  # as vLLM has processes of its own
                self.gate.wait()
            case "value_error":
                raise ValueError("the weights are of another model")
            case "os_error":
                raise OSError(SECRET)

    def run(self, items: Sequence[AsrInput]) -> list[AsrResult | ServingError]:
        if not self.batches and self._settings.warm_up == "explode":
            raise RuntimeError(SECRET)
        match items[0].options.prompt:
            case "explode":
                raise RuntimeError(SECRET)
            case "gate":
                self.gate.wait()
            case "busy":
                self._compute(2.0)
        return super().run(items)

    def _compute(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        matrix = np.full((300, 300), 1e-3, np.float32)
        while time.monotonic() < end:
            matrix = np.tanh(matrix @ matrix)


def routes(gate: threading.Event) -> APIRouter:
    """An event stream, a WebSocket, a form, and a fault, as a transformer has them."""
    router = APIRouter()

    @router.get("/events")
    async def events() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            yield "data: first\n\n"
            await until(gate.is_set, 600)
            yield "data: last\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @router.websocket("/echo/{name}")
    async def echo(socket: WebSocket, name: str) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)
            if text == "last":
                await socket.close()
                return

    @router.post("/v1/audio/form")
    async def form(file: Annotated[UploadFile, File()]) -> dict[str, Any]:
        return {"bytes": len(await file.read())}

    @router.get("/v1/audio/fault")
    async def fault() -> None:
        raise RuntimeError(SECRET)

    return router


def main() -> None:
    """Entry point."""
    settings = GatedSettings.from_command_line()
    engine = GatedRecognizer(settings)
    signal.signal(signal.SIGUSR1, lambda *_: engine.gate.set())
    signal.signal(signal.SIGUSR2, lambda *_: engine.gate.clear())
    serve(
        Predictor(asr, engine, settings),
        settings,
        routers=[routes(engine.gate)],
        dialects={"/v1/audio": openai_body, "/custom": lambda error: {"success": False, "reason": error.message}},
    )


if __name__ == "__main__":
    main()
