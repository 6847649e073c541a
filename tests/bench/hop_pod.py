"""A predictor that sums a volume: what the hop costs, with next to no model behind it."""

import asyncio

import numpy as np
from kserve import InferRequest, InferResponse, Model

from serving import v2
from serving.server import serve
from serving.settings import PodSettings


class Sum(Model):
    """Adds up every voxel, so that a lost or doubled byte shows."""

    def __init__(self, name: str):
        super().__init__(name)
        self.dead = asyncio.Event()

    async def start_up(self) -> None:
        """Nothing to load."""
        self.ready = True

    async def shut_down(self) -> None:
        """Nothing to free."""

    def health(self) -> dict[str, object]:
        """For `/health`."""
        return {"device": "cpu", "model_loaded": True}

    def validate(self, payload):
        """Everything is welcome."""
        return payload

    async def predict(self, payload: InferRequest, headers=None) -> InferResponse:
        """SUM: FP64 [1]."""
        volume = v2.tensors(payload)["VOLUME"]
        total = await asyncio.to_thread(lambda: np.array([volume.sum(dtype=np.float64)]))
        return v2.response(payload, self.name, {"SUM": total})


if __name__ == "__main__":
    settings = PodSettings.from_command_line()
    serve(Sum(settings.model_name), settings)
