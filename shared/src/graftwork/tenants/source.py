"""A task's batches, drawn with random numbers of its own, and where it stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from graftwork.errors import GraftError
from graftwork.tenants.streams import Stream

Batch = Any
Data = Iterable[Batch] | Callable[[torch.Generator], Iterable[Batch]]
_END = object()


class Source:
    """A task's batches: where it stands in them, and again from the start where more are asked for.

    Args:
        data: as in `Task`.
        seed: of the generator.
        again: whether data that end are gone through again.
    """

    def __init__(self, data: Data, seed: int, again: bool) -> None:
        self.data, self.again = data, again
        self.drawn = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._stream = Stream(seed)
        self._left: Iterator[Batch] | None = None

    def draw(self) -> Batch:
        """The next batch; whatever the data draw from torch's generators is the task's own.

        Raises:
            StopIteration: there is none.
        """
        with self._stream.on(torch.device("cpu")):
            if self._left is not None:
                batch = next(self._left, _END)
                if batch is not _END:
                    self.drawn += 1
                    return batch
                if not self.again:
                    raise StopIteration
            self._left = iter(self._made())
            batch = next(self._left)
        self.drawn += 1
        return batch

    def _made(self) -> Iterable[Batch]:
        if callable(self.data) and not isinstance(self.data, Iterable):
            return self.data(self._generator)
        assert isinstance(self.data, Iterable)
        return self.data

    def state_dict(self) -> dict[str, Any]:
        """Where the data stand."""
        own = getattr(self.data, "state_dict", None)
        data = own() if callable(own) else None
        return {"drawn": self.drawn, "data": data, "stream": self._stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another one stood: data with a state of their own get it back, others are drawn again."""
        own = getattr(self.data, "load_state_dict", None)
        if state["data"] is not None and callable(own):
            own(state["data"])
            self._stream.load_state_dict(state["stream"])
            self.drawn, self._left = state["drawn"], None
            return
        while self.drawn < state["drawn"]:
            try:
                self.draw()
            except StopIteration:
                raise GraftError(
                    f"tenants: the data ended after {self.drawn} batches, and the saved run had drawn "
                    f"{state['drawn']}; give the task the data that it had"
                ) from None
