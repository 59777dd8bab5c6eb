"""In which order a tensor's axes lie in memory: as they are named, or with the second one last (channels-last).

What is computed step for step from two tensors in the same order needs no copy.
"""

from __future__ import annotations

from torch import Tensor


def order_of(stored: Tensor) -> list[int] | None:
    """The order of axes in which a tensor is contiguous; `None` for any other memory format."""
    if stored.is_contiguous():
        return list(range(stored.dim()))
    last = [0, *range(2, stored.dim()), 1]
    return last if stored.permute(last).is_contiguous() else None


def back(order: list[int]) -> list[int]:
    """The order that undoes `order`."""
    return [order.index(d) for d in range(len(order))]


def matrix(t: Tensor, order: list[int]) -> Tensor:
    """A tensor (out, ...) as (out, rest), its other axes in an order of `order_of`."""
    return (t if order[1] == 1 else t.permute(order)).flatten(1)


def unfolded(rows: Tensor, like: Tensor, order: list[int]) -> Tensor:
    """What `matrix` undoes: (out, rest) in the shape and order of `like`."""
    if order[1] == 1:  # each view costs a small network's step some of its time
        return rows.view(like.shape)
    return rows.view([like.shape[d] for d in order]).permute(back(order))


def stored_like(value: Tensor, other: Tensor) -> Tensor:
    """The same numbers as `value`, in the memory order of `other` where both have as many axes."""
    order = order_of(other) if value.dim() == other.dim() else None
    if order is None or order == order_of(value):
        return value
    return value.permute(order).contiguous().permute(back(order))
