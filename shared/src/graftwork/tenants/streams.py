"""Random numbers of a task's own: what it draws is what it would draw alone, whoever else draws in between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Stream:
    """torch's global generators as one task sees them.

    The first use on a device starts as after `torch.manual_seed(seed)`; later ones go on where the last one ended.

    Args:
        seed: of the stream.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._states: dict[str, Tensor] = {}
        self._inside = False
        self._begun: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Inside the block torch's generators of the CPU and of `device` are this stream's."""
        if self._inside:
            yield
            return
        devices = [torch.device("cpu"), *([device] if device.type != "cpu" else [])]
        before = [_generator(d).get_state() for d in devices]
        for d in devices:
            generator, state = _generator(d), self._states.get(str(d))
            if state is None:
                generator.manual_seed(self.seed)
            else:
                generator.set_state(state)
        watched = checkpointed()
        self._begun = {str(d): _generator(d).get_state() for d in devices} if watched else {}
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            for d, state in zip(devices, before, strict=True):
                self._states[str(d)] = _generator(d).get_state()
                _generator(d).set_state(state)

    def state(self, device: torch.device) -> Tensor:
        """Where the stream stands on a device, as a generator's state."""
        found = self._states.get(str(device))
        if found is None:
            found = torch.Generator(device).manual_seed(self.seed).get_state()
        return found

    def put(self, device: torch.device, state: Tensor) -> None:
        """Go on from such a state."""
        self._states[str(device)] = state

    def drew(self) -> bool:
        """Whether anything was drawn in the last block, where that was inside a checkpointed module."""
        return any(not torch.equal(state, self._states[d]) for d, state in self._begun.items())

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"seed": self.seed, "states": dict(self._states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self.seed, self._states = int(state["seed"]), dict(state["states"])


def checkpointed() -> bool:
    """Whether what runs now is run again in the backward pass."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    kind: Any = getattr(torch, device.type)
    kind.init()
    index = device.index if device.index is not None else kind.current_device()
    generator: torch.Generator = kind.default_generators[index]
    return generator
