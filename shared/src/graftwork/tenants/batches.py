"""Batches of several tasks as one, and a task's part of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from graftwork.errors import GraftError
from graftwork.tenants.segments import Segments

TARGET = "labels"


@dataclass(frozen=True)
class Joined:
    """One batch of several tasks.

    Args:
        inputs: what the model's body is called with.
        segments: whose its rows are.
        own: from the body's output and a task's name, what that task's loss is called with; `None`: its rows.
    """

    inputs: Any
    segments: Segments
    own: Callable[[Tensor, str], Tensor] | None = None


Join = Callable[[Mapping[str, Any]], Joined]


def parted(name: str, batch: Any) -> tuple[Any, Any]:
    """A batch's inputs and target.

    Raises:
        GraftError: it is neither a pair nor a dict with `"labels"`.
    """
    if isinstance(batch, Mapping):
        if TARGET not in batch:
            raise GraftError(
                f"task {name!r}: its batches have no {TARGET!r}, only {sorted(batch)}; add it, or give pairs "
                "(inputs, target)"
            )
        return {k: v for k, v in batch.items() if k != TARGET}, batch[TARGET]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise GraftError(
        f"task {name!r}: a batch must be a pair (inputs, target) or a dict with {TARGET!r}, not a "
        f"{type(batch).__name__}"
    )


def stack(inputs: Mapping[str, Any]) -> Joined:
    """Rows of all tasks behind one another; what the tasks' tensors are called and how they are nested is the same.

    Raises:
        GraftError: rows of other shapes, or other inputs, by task; `join=` of the runner is where they are aligned.
    """
    flat = {name: tree_flatten(own) for name, own in inputs.items()}
    (first, (leaves, spec)), *_ = flat.items()
    sizes = []
    for name, (own, shape) in flat.items():
        if shape != spec:
            raise GraftError(f"tenants: the inputs of {name!r} are not of the kind of {first!r}'s")
        for a, b in zip(leaves, own, strict=True):
            if not isinstance(a, Tensor) or not isinstance(b, Tensor):
                raise GraftError(
                    f"tenants: inputs must be tensors; {name!r} or {first!r} has others"
                )
            if a.shape[1:] != b.shape[1:] or a.dtype is not b.dtype:
                raise GraftError(
                    f"tenants: rows of {name!r} are {tuple(b.shape[1:])} {b.dtype}, those of {first!r} "
                    f"{tuple(a.shape[1:])} {a.dtype}; align them with the runner's join="
                )
        sizes.append(own[0].shape[0])
    joined = [torch.cat(parts) for parts in zip(*(own for own, _ in flat.values()), strict=True)]
    return Joined(tree_unflatten(joined, spec), Segments(tuple(inputs), tuple(sizes)))


def call(model: Any, inputs: Any) -> Tensor:
    """The model's output, which must be a tensor.

    Raises:
        GraftError: it is something else.
    """
    out = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    if not isinstance(out, Tensor):
        raise GraftError(
            f"tenants: the model returns a {type(out).__name__}; give the runner body=lambda model, inputs: "
            "model(**inputs).last_hidden_state, or whatever its tensor of rows is"
        )
    return out
