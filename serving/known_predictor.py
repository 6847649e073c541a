"""What this pod knows of its predictor without asking: the client of the hop that remembers how its calls went.

It asks by itself only when the predictor is awake anyway: as this pod starts, and after a call went otherwise than was known.
A predictor that was scaled to zero is not woken to be looked at.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Self

from kserve import InferRequest, InferResponse

from serving.deadline import Deadline
from serving.errors import PredictorUnavailable
from serving.hop import PredictorClient
from serving.settings import TransformerSettings

_ASKING_SECONDS = 5.0  # one try of the predictor's health; it may be starting from zero
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between tries, doubled each time


class KnownPredictor(PredictorClient):
    """A `PredictorClient` that knows the predictor's device and whether its model was loaded when it was last called."""

    _device: str | None = None
    _loaded = False
    _asking: asyncio.Task[Any] | None = None

    def __init__(self, *args: Any, **how: Any):
        super().__init__(*args, **how)
        self._answered = asyncio.Event()
        """A call was answered: there is no reason to go on pausing between tries."""

    @classmethod
    def of(cls, settings: TransformerSettings) -> Self:
        """The predictor that a transformer's settings name."""
        return cls(
            settings.predictor_host,
            settings.predictor_model_name or settings.model_name,
            use_ssl=settings.predictor_use_ssl,
            connections=settings.hop_connections,
            retry_seconds=settings.hop_retry_seconds,
        )

    def known(self) -> dict[str, Any]:
        """`device`, None until the predictor told it, and `model_loaded`."""
        return {"device": self._device, "model_loaded": self._loaded}

    def wake(self) -> None:
        """Begins to ask the predictor until it is ready; asking brings it up from zero."""
        self._asking = asyncio.create_task(self._ask_until_ready())

    async def infer(self, request: InferRequest, headers: Mapping[str, str], deadline: Deadline) -> InferResponse:
        """As `PredictorClient.infer`."""
        try:
            answer = await super().infer(request, headers, deadline)
        except PredictorUnavailable:
            self._note(answered=False)
            raise
        self._note(answered=True)
        return answer

    async def close(self) -> None:
        """Closes the connections."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await super().close()

    def _note(self, *, answered: bool) -> None:
        if answered == self._loaded:
            return
        self._loaded = answered
        if answered:
            self._answered.set()
        # It may be another process on another device by now, or one that is well but too busy for this call.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> bool:
        try:
            state = await self.health(_ASKING_SECONDS)
        except PredictorUnavailable:
            return False
        self._device, self._loaded = state.get("device"), bool(state.get("model_loaded"))
        return True

    async def _ask_until_ready(self) -> None:
        pause = _FIRST_PAUSE
        while not await self._ask():
            self._answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
