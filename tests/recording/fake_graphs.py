"""A machine that records nothing: it runs a pass again at each replay, into the same memory, as a graph would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.recording.around import as_if_captured


class FakeNumbers:
    """See `graftwork.recording.take.Numbers`."""

    def __init__(self) -> None:
        self._own = torch.Generator()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        before = torch.get_rng_state()
        torch.set_rng_state(self._own.get_state())
        try:
            yield
        finally:
            self._own.set_state(torch.get_rng_state())
            torch.set_rng_state(before)

    def get(self) -> Tensor:
        return self._own.get_state()

    def put(self, state: Tensor) -> None:
        self._own.set_state(state)


class Again:
    """See `graftwork.recording.take.Graphs`."""

    bytes = 0

    def __init__(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
    ) -> None:
        def captured() -> list[Tensor]:
            with as_if_captured():  # what a graph holds is what a capture saw
                return forward()

        self._forward, self._backward = captured, backward
        made = captured()
        self.outs = [t.detach().clone() for t in made]
        self.grads = [None if g is None else g.clone() for g in backward(made)]
        self._made: list[Tensor] = []
        self._state = torch.get_rng_state()

    def forward(self) -> None:
        self._state = torch.get_rng_state()
        self._made = self._forward()
        for static, t in zip(self.outs, self._made, strict=True):
            static.copy_(t.detach())

    def backward(self) -> None:
        if not self._made:  # a second time
            after = torch.get_rng_state()
            torch.set_rng_state(self._state)
            self._made = self._forward()
            torch.set_rng_state(after)
        for static, g in zip(self.grads, self._backward(self._made), strict=True):
            if static is not None:
                assert g is not None
                static.copy_(g)
        self._made = []


class _NoWait(TorchDispatchMode):
    """Raises where a device would be waited for: a value read, or numbers of the host's own copied to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        waits = name in ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select")
        if name in ("index", "index_put", "index_put_"):  # a mask is turned into places
            waits = any(t is not None and t.dtype is torch.bool for t in args[1])
        if waits:
            raise RuntimeError("called a synchronizing operation")
        return func(*args, **(kwargs or {}))


class Fake:
    """See `graftwork.recording.take.Machine`; the device is the host."""

    captures = 0

    def beside(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def strict(self) -> contextlib.AbstractContextManager[Any]:
        return _NoWait()

    def capture(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
        numbers: Sequence[FakeNumbers] = (),
    ) -> Again:
        self.captures += 1
        state, theirs = torch.get_rng_state(), [n.get() for n in numbers]
        made = Again(forward, backward)
        torch.set_rng_state(state)  # a capture runs nothing
        for n, there in zip(numbers, theirs, strict=True):
            n.put(there)
        return made

    def numbers(self) -> FakeNumbers:
        return FakeNumbers()

    def random(self) -> Any:
        return torch.get_rng_state()

    def again(self, state: Any) -> None:
        torch.set_rng_state(state)

    def host_drew(self, state: Any) -> bool:
        return False
