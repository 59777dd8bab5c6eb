"""Gradients as means over processes, each of which holds samples of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from graftwork.errors import GraftError


def rank() -> int:
    """This process's number.

    Raises:
        GraftError: torch.distributed has no process group.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise GraftError(
            "GAST.processes: torch.distributed has no process group; call init_process_group first, or take "
            "processes=False"
        )
    return distributed.get_rank()


def means(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Mean of each gradient over all processes, 0 for one that has none; `None` where no process has one.

    Every process calls this as often as the others, with the same parameters.

    Args:
        params: what the gradients are of; they give shapes, dtypes and devices.
    """
    there = [torch.tensor([float(g is not None)], device=params[0].device) for g in grads]
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]
    flat = torch.cat(
        [t.detach().reshape(-1).to(params[0].device, torch.float64) for t in (*there, *parts)]
    )
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    counts, values = flat.split([len(params), len(flat) - len(params)])
    found = values.split([p.numel() for p in params])
    return [
        v.view_as(p).to(p) if had else None
        for p, v, had in zip(params, found, counts.tolist(), strict=True)
    ]
