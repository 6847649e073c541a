"""What a predictor's folder implements: an engine that answers batches of its contract's items.

The KServe model around it (`serving.predictor`) does the rest: protocols, batching, warm-up, readiness, metrics.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

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
