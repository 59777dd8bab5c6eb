"""torch's fused Adam and AdamW steps and gradient norms, without the host's work on each parameter.

The operations and their operands are those of torch's own code, so the bits are too. Where anything speaks for more
than such a step (hooks, a schedule's mark on `step`, a subclass, rates that are tensors, a first step), torch's own
code must be called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as base

#: by class, its kernel and whether its groups say that they decouple weight decay
_KERNELS: dict[type, tuple[Any, bool]] = {
    torch.optim.Adam: (torch._fused_adam_, False),
    torch.optim.AdamW: (torch._fused_adamw_, True),
}
#: settings of a group that need torch's own step
_OTHERS = ("amsgrad", "capturable", "differentiable")


@torch.no_grad()
def fused_step(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> bool:
    """Take the optimizer's step where it is a plain fused one.

    Args:
        optimizer: its state is read and changed as its own `step` does.
        found_inf: a float scalar; where it is 1, nothing changes.

    Returns:
        Whether the step was taken; if not, nothing has changed, and the optimizer's `step` has to be called.
    """
    if not _ordinary(optimizer):
        return False
    gathered = []
    for group in optimizer.param_groups:
        lists = _gather(optimizer, group)
        if lists is None:
            return False
        gathered.append((group, lists))
    kernel = _KERNELS[type(optimizer)][0]
    for group, (params, grads, firsts, seconds, counts) in gathered:
        if not params:
            continue
        own = found_inf.to(params[0].device, non_blocking=True)
        torch._foreach_add_(counts, 1)
        kernel(
            params,
            grads,
            firsts,
            seconds,
            [],
            counts,
            amsgrad=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=own,
        )
        torch._foreach_sub_(counts, [own] * len(counts))
    return True


def _ordinary(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its `step` is the class's own, and all groups ask for the fused kernel alone."""
    own: Any = optimizer
    hooks = (
        own._optimizer_step_pre_hooks,
        own._optimizer_step_post_hooks,
        base._global_optimizer_pre_hooks,
        base._global_optimizer_post_hooks,
    )
    if type(optimizer) not in _KERNELS or "step" in vars(optimizer) or any(hooks):
        return False
    if getattr(optimizer, "grad_scale", None) is not None:
        return False
    decoupled = _KERNELS[type(optimizer)][1]
    return all(
        g.get("fused")
        and not any(g[word] for word in _OTHERS)
        and g.get("decoupled_weight_decay") is decoupled
        and not any(isinstance(v, Tensor) for v in (g["lr"], *g["betas"]))
        for g in optimizer.param_groups
    )


def _gather(
    optimizer: torch.optim.Optimizer, group: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor]] | None:
    """Parameters with gradients, those, both moments and the counts; `None` where torch's own step must see to it."""
    pairs = [(p, g) for p in group["params"] if (g := p.grad) is not None]
    params, grads = [p for p, _ in pairs], [g for _, g in pairs]
    if len({(p.device, p.dtype) for p in params}) > 1 or any(g.is_sparse for g in grads):
        return None
    states = [optimizer.state.get(p) for p in params]
    if not all(states):
        return None
    firsts, seconds, counts = (
        [s[word] for s in states if s] for word in ("exp_avg", "exp_avg_sq", "step")
    )
    return params, grads, firsts, seconds, counts


@torch.no_grad()
def total_norm(grads: Sequence[Tensor]) -> Tensor:
    """The norm of all of them together, a scalar; at least one."""
    kinds = {(g.device, g.dtype, type(g)) for g in grads}
    device, _, kind = next(iter(kinds))
    if len(kinds) > 1 or kind is not Tensor or device.type not in ("cpu", "cuda"):
        return nn.utils.get_total_norm(grads)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(grads))))
    return norm
