"""Which grafted layers read the same input? Found out by watching, and used as long as it stays true.

q, k and v of an attention, or gate and up of an MLP, are called one after another with the same tensor. The
first forward pass shows who those are; from the second on, the first of them that is called computes for all,
and the others hand out what is ready. Nothing is assumed of the model's code: a layer whose turn does not
come, or comes with another tensor, computes alone, and the family that expected it is given up.

Members know each other by weak references that do not survive copying or pickling: a copy finds out anew.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor


class Family:
    """Layers that were called with one and the same tensor, in the order of their calls.

    Attributes:
        members: one weak reference per layer's state.
        alone: the layers turned out not to be called together; each computes for itself.
        waiting: outputs that wait for the layer whose they are, by its state's id.
    """

    def __init__(self) -> None:
        self.members: list[weakref.ref[Any]] = []
        self.alone = False
        self.waiting: dict[int, Tensor] = {}
        self._input: weakref.ref[Tensor] | None = None
        self._version = -1

    def take(self, member: Any, x: Tensor) -> Tensor | None:
        """The output that was computed for `member` from this very tensor, unchanged since; once."""
        if self._input is None or self._input() is not x or self._version != x._version:
            return None
        return self.waiting.pop(id(member), None)

    def led_by(self, member: Any) -> bool:
        """Whether `member` is the one whose call computes for all: the first, while all is as it was seen."""
        if self.waiting:
            self.alone = True
        return not self.alone and self.members[0]() is member

    def keep(self, x: Tensor, outputs: dict[int, Tensor]) -> None:
        """Store the outputs of `x` for the members that are called later."""
        self._input, self._version, self.waiting = weakref.ref(x), x._version, outputs

    def __deepcopy__(self, memo: Any) -> Family:
        return Family()

    def __reduce__(self) -> Any:
        return Family, ()


class _Watch(threading.local):
    """The last call in this thread: its tensor, and whose family it was."""

    last: tuple[weakref.ref[Tensor], int, Family] | None = None


_watch = _Watch()


def watch(x: Tensor, member: Any, own: Family) -> Family:
    """Note a call of `member`; its family, joined with the one before's if both read the same tensor."""
    last, family = _watch.last, own
    if last is not None:
        seen, version, before = last
        if seen() is x and version == x._version and before is not own and not before.alone:
            family = before
    if all(ref() is not member for ref in family.members):
        family.members.append(weakref.ref(member))
    _watch.last = (weakref.ref(x), x._version, family)
    return family


def apart(x: Tensor) -> bool:
    """Whether calls must stay apart: where each call's saved tensors are counted, as checkpointing does, a
    recomputation has to save what the first pass saved, whoever shared with whom by then."""
    return (
        x.is_inference() or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    )


def plain(x: Tensor) -> bool:
    """Whether hand-written gradients may serve this call: no transform, tracing or tensor subclass is at work."""
    return (
        (type(x) is Tensor or type(x) is torch.nn.Parameter)
        and not transformed()
        and not (torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type))
    )


def transformed() -> bool:
    """Whether a transform of `torch.func`, forward mode or tracing is at work."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )
