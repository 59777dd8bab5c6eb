"""LoRA+: two learning rates for the two factors (Hayou et al. 2024, arXiv 2402.12354).

    lr_B = ratio lr_A                                                          (paper, section 4)

A's gradient is of the order of B, and B starts at zero; in the limit of wide layers one rate for both
trains A or B too slowly. Parameter groups and nothing more: any optimizer takes them.

Departures: none. As in the authors' code, vectors of the adapter (a magnitude, a bias) go with B, and both factors of
an embedding have a rate of their own. Whole modules and new rows beside the adapter keep `lr`.
Refuses: grafts without a B.

Invariants:
1. Every trained tensor is in exactly one group.
2. B's rate is ratio times A's.
3. ratio = 1 is LoRA: AdamW over these groups and AdamW over the list take the same steps, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW

from graftwork.algebra.linear import Embedding
from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.optim.pairs import known, trained_states
from graftwork.states import MethodState


def lora_plus(
    params: Graft | nn.Module | Iterable[Any],
    lr: float,
    ratio: float = 16.0,
    embedding_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups with a higher rate for B, for any optimizer.

    Args:
        params: a graft, or a module that carries grafts; what else trains in the module keeps `lr`.
        lr: A's rate.
        ratio: B's rate over A's.
        embedding_lr: the rate of both factors of embeddings (the authors use 1e-6); `None` treats them
            like the others.

    Returns:
        Groups with "params", "lr" and "name": "A", "B", "embedding", "beside"; empty ones are left out.

    Raises:
        GraftError: no B anywhere, a ratio or rate that is not above 0, or a list that does not say what is what.
    """
    target = known(params)
    if target is None:
        raise GraftError(
            "lora_plus: a list of tensors does not say which is A and which is B; give it the graft, or the module"
        )
    rates = {"lr": lr, "ratio": ratio, "embedding_lr": lr if embedding_lr is None else embedding_lr}
    for name, value in rates.items():
        if not value > 0:
            raise GraftError(f"lora_plus: {name} must be above 0, not {value}")
    places: dict[int, str] = {}
    for _, state in trained_states(target):
        if isinstance(state, MethodState) and {"A", "B"} <= set(state._parameters):
            embedding = embedding_lr is not None and isinstance(state.geo, Embedding)
            for name, p in state.named_parameters():
                place = "B" if name == "B" or p.dim() == 1 else "A"
                places[id(p)] = "embedding" if embedding else place
    if "B" not in places.values() and "embedding" not in places.values():
        raise GraftError(
            "lora_plus: no graft here has a B; use it with LoRA or another low-rank pair"
        )
    speeds = {"A": lr, "B": ratio * lr, "embedding": rates["embedding_lr"], "beside": lr}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in speeds}
    for p in target.parameters():
        if p.requires_grad:
            members[places.get(id(p), "beside")].append(p)
    return [{"params": ps, "lr": speeds[n], "name": n} for n, ps in members.items() if ps]


class LoRAPlus(AdamW):
    """AdamW over the groups of `lora_plus`: the form that a config file can name.

    Args:
        params: a graft, or a module that carries grafts.
        lr: A's rate.
        ratio: B's rate over A's.
        betas, eps, weight_decay: AdamW's.
        embedding_lr: the rate of both factors of embeddings; `None` treats them like the others.

    Raises:
        GraftError: as `lora_plus`.
    """

    def __init__(
        self,
        params: Graft | nn.Module | Iterable[Any],
        lr: float = 1e-3,
        ratio: float = 16.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        embedding_lr: float | None = None,
    ) -> None:
        groups = lora_plus(params, lr, ratio, embedding_lr)
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
