"""CUDA graphs as the machine that records a pass."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class CudaGraphs:
    """A captured forward and backward pass in one pool of memory.

    Args:
        forward, backward, numbers: see `graftwork.recording.take.Machine.capture`.
        stream: that records; not the default one.
        pool: of memory that graphs share which are replayed one after another, a backward pass right behind its own
            forward pass; `None`: one of its own.
    """

    def __init__(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
        stream: torch.cuda.Stream,
        numbers: Sequence[CudaNumbers] = (),
        pool: Any = None,
    ) -> None:
        self._first, self._second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        for own in numbers:
            self._first.register_generator_state(own.generator)
        self._numbers = numbers
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # as a capture does when it begins
        before = torch.cuda.memory_reserved()
        # other threads go on meanwhile: the one that pins a data loader's batches calls what a global capture forbids
        mode: Any = {"stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self._first, pool=pool, **mode):
            made = forward()
        with (
            torch.cuda.graph(self._second, pool=self._first.pool(), **mode),
            torch.autograd.set_multithreading_enabled(False),
        ):
            self.grads = backward(made)
        self.outs = [t.detach() for t in made]
        self.bytes = torch.cuda.memory_reserved() - before

    def forward(self) -> None:
        """Replay the forward pass on the current stream."""
        self._first.replay()

    def backward(self) -> None:
        """Replay the backward pass on the current stream."""
        self._second.replay()


class CudaNumbers:
    """See `graftwork.recording.take.Numbers`.

    Args:
        device: whose generator it stands in for.
    """

    def __init__(self, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        self._default: torch.Generator = torch.cuda.default_generators[index]

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Inside the block what draws from the device's generator draws from this one, in a capture too."""
        before = self._default.graphsafe_get_state()
        self._default.graphsafe_set_state(self.generator.graphsafe_get_state())
        try:
            yield
        finally:
            self._default.graphsafe_set_state(before)

    def get(self) -> Tensor:
        """Where it stands."""
        return self.generator.get_state()

    def put(self, state: Tensor) -> None:
        """Go on from there."""
        self.generator.set_state(state)


class Cuda:
    """Records on one device.

    Args:
        device: where the model and its inputs lie.
        shared: all recordings lie in one pool of memory; see `CudaGraphs`.
    """

    def __init__(self, device: torch.device, shared: bool = False) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle() if shared else None

    def numbers(self) -> CudaNumbers:
        """A generator on the device."""
        return CudaNumbers(self.device)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """A stream of its own, which waits for all that was issued and is waited for."""
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        here.wait_stream(self._stream)
        torch.cuda.synchronize(self.device)

    def capture(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
        numbers: Sequence[CudaNumbers] = (),
    ) -> CudaGraphs:
        """Record both passes."""
        with torch.cuda.device(self.device):
            return CudaGraphs(forward, backward, self._stream, numbers, self._pool)

    @contextlib.contextmanager
    def strict(self) -> Iterator[None]:
        """Whatever waits for the device raises, which in a capture would leave the stream unusable."""
        before = torch.cuda.get_sync_debug_mode()
        _watch("error")
        try:
            yield
        finally:
            _watch(before)

    def random(self) -> Any:
        """The states of torch's, numpy's and Python's generators, the device's first."""
        host = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
        return torch.cuda.get_rng_state(self.device), host

    def again(self, state: Any) -> None:
        """Put them back."""
        device, (host, python, numpy) = state
        torch.cuda.set_rng_state(device, self.device)
        torch.set_rng_state(host)
        random.setstate(python)
        np.random.set_state(numpy)

    def host_drew(self, state: Any) -> bool:
        """Whether a generator on the host moved since."""
        host, python, numpy = state[1]
        now: Any = np.random.get_state(legacy=False)
        return not (
            torch.equal(torch.get_rng_state(), host)
            and random.getstate() == python
            and now["state"]["pos"] == numpy["state"]["pos"]
            and np.array_equal(now["state"]["key"], numpy["state"]["key"])
        )


def _watch(mode: int | str) -> None:
    """Set what torch does when an operation waits for the device, without its warning that the mode is a prototype.

    Where warnings are errors, that one is raised with the mode set already, which would stay so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Synchronization debug mode", category=UserWarning
        )
        torch.cuda.set_sync_debug_mode(mode)
