"""What is looked out for while a pass is rehearsed and recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

RECOMPUTED = (
    "the forward pass is checkpointed, or its saved tensors are offloaded: activations that come back in the backward "
    "pass are not recorded; switch it off"
)


class Unfit(Exception):
    """A pass cannot be recorded; says why."""


def reason_of(error: Exception) -> str:
    """One line: why an error keeps a pass from being recorded."""
    if isinstance(error, Unfit):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def described(t: Tensor) -> tuple[object, ...]:
    """What a recording's input must have in common with the input of a call that is to be replayed.

    Raises:
        Unfit: it is no plain tensor.
    """
    if type(t) not in (Tensor, nn.Parameter):
        raise Unfit(f"an input is a {type(t).__name__}, not a plain tensor")
    if t.is_inference():
        raise Unfit("an input was made in inference mode")
    return t.shape, t.stride(), t.dtype, t.device, t.requires_grad


def recomputes(node: Any) -> bool:
    """Whether a backward pass from this node runs a part of the forward pass again (re-entrant checkpointing)."""
    seen, ahead = {node}, [node]
    while ahead:
        here = ahead.pop()
        if "CheckpointFunction" in here.name():
            return True
        new = [n for n, _ in here.next_functions if n is not None and n not in seen]
        seen.update(new)
        ahead += new
    return False


@contextlib.contextmanager
def saved_plainly() -> Iterator[None]:
    """Refuse what puts hooks on saved tensors in the block, as checkpointing and offloading do."""
    module: Any = torch._C._autograd
    push = module._push_saved_tensors_default_hooks

    def refuse(*hooks: Any) -> None:
        raise Unfit(RECOMPUTED)

    module._push_saved_tensors_default_hooks = refuse
    try:
        yield
    finally:
        module._push_saved_tensors_default_hooks = push


@contextlib.contextmanager
def as_if_captured() -> Iterator[None]:
    """Whoever asks whether a stream is captured hears yes."""
    asked = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = asked


@contextlib.contextmanager
def uncached(kind: str) -> Iterator[None]:
    """Autocast as it is, but each weight cast where it is used: a cast from before a recording would stay in it."""
    if not torch.is_autocast_enabled(kind):
        yield
        return
    with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False):
        yield
