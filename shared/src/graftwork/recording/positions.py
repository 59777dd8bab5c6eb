"""Are the positions of a pass those of packed sequences? What transformers cannot look up in a capture is known before.

Outside a capture transformers reads the positions, finds whole sequences, and leaves the causal mask to the attention's
kernel. In a capture nothing can be read, so it would build a mask, and another, slower kernel would run. Where the
positions are made inside the pass and do not depend on its inputs, the first rehearsal's answer holds for all replays.
A padding mask that is not there is not read either way.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.recording.around import Unfit

MODULE, FUNCTION, TRACING = (
    "transformers.masking_utils", "find_packed_sequence_indices", "is_tracing",
)  # fmt: skip


class Positions:
    """The answers of one kind of pass, in the order of the questions."""

    def __init__(self) -> None:
        self._whole: list[bool] = []

    @contextlib.contextmanager
    def learn(self, inputs: Sequence[Tensor]) -> Iterator[None]:
        """A rehearsal that may wait for the device.

        Args:
            inputs: what differs from replay to replay.
        """
        self._whole = []
        follows = _Follows(inputs)

        def answer(ask: Callable[[Any], Any], positions: Any) -> Any:
            found = ask(positions)
            with _as_if_not_captured():
                whole = not follows.reaches(positions) and ask(positions) is None
            self._whole.append(whole)
            return None if whole else found

        with _answered(answer), follows:
            yield

    @contextlib.contextmanager
    def know(self) -> Iterator[None]:
        """A pass in which nothing may be read.

        Raises:
            Unfit: it asks more often than the rehearsal did.
        """
        ahead = iter(self._whole)

        def answer(ask: Callable[[Any], Any], positions: Any) -> Any:
            whole = next(ahead, None)
            if whole is None:
                raise Unfit("masks are made in another way in each pass")
            return None if whole else ask(positions)

        with _answered(answer):
            yield


class _Follows(TorchDispatchMode):
    """Sees which tensors are computed from some others; what shares memory with one of them counts, too."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {_place(t) for t in inputs}

    def reaches(self, t: Any) -> bool:
        """Whether a value depends on them."""
        return not isinstance(t, Tensor) or _place(t) in self._places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {_place(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        reached = not given.isdisjoint(self._places)
        out = func(*args, **kwargs)
        made = {_place(t) for t in pytree.tree_leaves(out) if isinstance(t, Tensor)}
        if reached:
            self._places |= made | (given if func._schema.is_mutable else set())
        else:
            self._places -= made - given  # a new tensor where an old one was
        return out


def _place(t: Tensor) -> int:
    """A tensor's memory; 0 where it has none of its own."""
    try:
        place: int = t.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse, and other wrappers
        return 0
    return place


@contextlib.contextmanager
def _answered(answer: Callable[[Callable[[Any], Any], Any], Any]) -> Iterator[None]:
    module: Any = sys.modules.get(MODULE)
    ask = getattr(module, FUNCTION, None)
    if ask is None:
        yield
        return
    # transformers 5.17 asks so of a padding mask that is not there, too, and builds a mask in a capture
    traced = getattr(module, TRACING, None)
    setattr(module, FUNCTION, lambda positions: answer(ask, positions))
    if traced is not None:
        setattr(module, TRACING, lambda tensor=None: tensor is not None and traced(tensor))
    try:
        yield
    finally:
        setattr(module, FUNCTION, ask)
        if traced is not None:
            setattr(module, TRACING, traced)


@contextlib.contextmanager
def _as_if_not_captured() -> Iterator[None]:
    asked = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = asked
