"""Frozen weights of linear layers that read the same input, side by side in one memory, with room for A below them.

    [y_1 .. y_n  p] = x [W_1; ..; W_n; A]^T + [b_1 .. b_n  0],        [y_1 .. y_n] += p Z

One product reads the input once for all layers and gives p = x A^T on the way, where a base issues n and a branch one
more. The weights' numbers stay; their parameters look into the common memory until `undo` gives each its own again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: devices on which weights are folded. On others a product's rounding depends on its width, and a new graft is to be
#: the base bit for bit
DEVICES = ("cuda",)
#: rows of A are filled up to a multiple of this, so that rows of the result stay aligned
ALIGNED = 8


class Fold:
    """The memory of some weights.

    Args:
        weights: (out_i, in), contiguous, of one dtype on one device.
        room: rows for A.

    Attributes:
        matrix_t: (in, sum of out_i + room), the transpose.
        total: sum of out_i.
        owner: whose A is in the room.
    """

    def __init__(self, weights: Sequence[Tensor], room: int) -> None:
        self.room, self.total = room, sum(w.shape[0] for w in weights)
        self.owner: object = None
        with torch.inference_mode(False), torch.no_grad():
            memory = weights[0].new_empty(self.total + room, weights[0].shape[1])
            parts = memory[: self.total].split([w.shape[0] for w in weights])
            self._parts = list(zip(weights, parts, strict=True))
            for w, part in self._parts:
                part.copy_(w)
                w.data = part
            self._below = memory[self.total :].zero_()
        self.matrix_t = memory.t()

    def in_place(self) -> bool:
        """Whether all weights still look into this memory."""
        return all(w.data_ptr() == part.data_ptr() for w, part in self._parts)

    def put(self, a: Tensor, owner: object) -> None:
        """Write A (r, in) into the room."""
        with torch.inference_mode(False), torch.no_grad():
            self._below[: a.shape[0]].copy_(a)
            self._below[a.shape[0] :].zero_()
        self.owner = owner

    def undo(self) -> None:
        """Give each weight a memory of its own."""
        with torch.inference_mode(False), torch.no_grad():
            for w, part in self._parts:
                if w.data_ptr() == part.data_ptr():
                    w.data = part.clone()
        self.owner = None


class Folds:
    """The folds of a block of serving, by whose weights they hold."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Fold] = {}

    def fold(self, weights: Sequence[Tensor], rank: int) -> Fold | None:
        """These weights with room for `rank` rows or more, made if need be; `None` where that does not serve."""
        if not all(_serves(w) for w in weights) or len({w.shape[1] for w in weights}) > 1:
            return None
        key = tuple(id(w) for w in weights)
        found = self._made.get(key)
        if found is None or found.room < rank or not found.in_place():
            found = self._made[key] = Fold(weights, -(-rank // ALIGNED) * ALIGNED)
        return found

    def undo(self) -> None:
        """Give all weights a memory of their own."""
        while self._made:  # one after another, so that no more than one is there twice
            self._made.popitem()[1].undo()


def _serves(w: Tensor) -> bool:
    return (
        w.device.type in DEVICES
        and type(w) in (Tensor, torch.nn.Parameter)
        and w.is_contiguous()
        and not w.is_inference()
    )
