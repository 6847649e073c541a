"""What a predictor's folder implements: an engine that answers its contract's items, in batches or each by itself.

The KServe model around it (`serving.predictor`) does the rest: protocols, batching, warm-up, readiness, metrics.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from serving.errors import ServingError

Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Engine(Protocol[Item_contra, Result_co]):
    """A model that works on batches, synchronously; it is called from one worker thread at a time.

    Heavy libraries are imported inside `load()`, so that importing the module stays cheap.
    """

    @property
    def device(self) -> str:
        """What it runs on, as `/health` shows it: "cpu", "cuda", … Known once loaded."""

    def load(self) -> None:
        """Loads the weights. Raises ValueError with one clear sentence when they or the device are not usable."""

    def batch_key(self, item: Item_contra) -> Hashable:
        """Items with equal keys may share a batch."""

    def run(self, items: Sequence[Item_contra]) -> Sequence[Result_co | ServingError]:
        """One result an item, in order; a ServingError in an item's place fails that item alone."""

    def close(self) -> None:
        """Frees what `load` took."""


@runtime_checkable
class Described(Protocol):
    """An engine, or a model around it, that says what it is made of."""

    def described(self) -> dict[str, Any]:
        """For the V2 metadata's `parameters`, as JSON: such as the weights' hashes, and what has none. Empty until loaded."""


@runtime_checkable
class ConcurrentEngine(Protocol[Item_contra, Result_co]):
    """A model that batches by itself: it is given every item at once, each by a task of the event loop.

    Heavy libraries are imported inside `load()`, which is called from a thread.
    """

    @property
    def device(self) -> str:
        """As an `Engine`'s."""

    def load(self) -> None:
        """As an `Engine`'s."""

    async def infer(self, item: Item_contra) -> Result_co:
        """The item's result. Raises ServingError; cancelling it frees what the item takes."""

    async def died(self) -> str:
        """Returns, with what has happened, once the model cannot answer any more: the pod is then restarted."""

    def close(self) -> None:
        """Frees what `load` took; what is in flight fails."""
