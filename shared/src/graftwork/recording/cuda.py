"""CUDA graphs as the machine that records a pass."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class CudaGraphs:
    """A captured forward and backward pass in one pool of memory.

    Args:
        forward, backward: see `graftwork.recording.tape.Machine.capture`.
        stream: that records; not the default one.
    """

    def __init__(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
        stream: torch.cuda.Stream,
    ) -> None:
        self._first, self._second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # other threads go on meanwhile: the one that pins a data loader's batches calls what a global capture forbids
        mode: Any = {"stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self._first, **mode):
            made = forward()
        with (
            torch.cuda.graph(self._second, pool=self._first.pool(), **mode),
            torch.autograd.set_multithreading_enabled(False),
        ):
            self.grads = backward(made)
        self.outs = [t.detach() for t in made]

    def forward(self) -> None:
        """Replay the forward pass on the current stream."""
        self._first.replay()

    def backward(self) -> None:
        """Replay the backward pass on the current stream."""
        self._second.replay()


class Cuda:
    """Records on one device.

    Args:
        device: where the model and its inputs lie.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

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
    ) -> CudaGraphs:
        """Record both passes."""
        with torch.cuda.device(self.device):
            return CudaGraphs(forward, backward, self._stream)

    @contextlib.contextmanager
    def strict(self) -> Iterator[None]:
        """Whatever waits for the device raises, which in a capture would leave the stream unusable."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

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
