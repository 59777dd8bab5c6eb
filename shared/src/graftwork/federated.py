"""Start values and client counts for LoRA that a federation trains: SFed-LoRA (Huang et al. 2026, arXiv 2603.08058).

Clients train A and B, the server averages A, and every B stays with its client. The scale alpha sqrt(N / r) counts on
the average of N independent first A, whose entries have a variance smaller by N. A server that sends one A to all has
no such average: it draws A that small itself (`common_start`), or the first steps are N times too large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from graftwork.algebra.linear import Embedding
from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.methods.lora import LoRA
from graftwork.starts.residual import Residual
from graftwork.states import MethodState


def common_start(graft: Graft) -> None:
    """Shrink a fresh graft's A by sqrt(N), for a server that sends this one A to all clients.

    Entries then have the mean and variance of an average over N independent starts. Call it once, on the server.

    Args:
        graft: of LoRA with `clients`, at its start.

    Raises:
        GraftError: a site without `clients`, one whose A is not drawn at random, or a graft that has been trained.
    """
    found: list[tuple[torch.Tensor, float]] = []
    for site, state in graft.states():
        method = state.method if isinstance(state, MethodState) else None
        where = f"common_start: {site or 'the model'}"
        if not isinstance(state, MethodState) or not isinstance(method, LoRA):
            continue
        if method.clients is None:
            raise GraftError(f"{where}: {type(method).__name__}.clients is not set")
        if isinstance(method, Residual) or isinstance(state.geo, Embedding):
            raise GraftError(f"{where}: its A is not drawn at random, so nothing is averaged there")
        p = state.params()
        if bool(p["B"].any()):
            raise GraftError(f"{where}: B is not zero; A can be made smaller at the start only")
        found.append((p["A"], math.sqrt(method.clients)))
    if not found:
        raise GraftError("common_start: the graft has no LoRA")
    with torch.no_grad():
        for a, root in found:
            a.div_(root)


def effective_clients(weights: Iterable[float]) -> float:
    """N for an average with unequal weights p, whose variance is smaller by sum p^2: 1 / sum p^2.

    Args:
        weights: of the clients, such as their numbers of samples; they need not sum to 1.

    Raises:
        GraftError: no weights, or one that is not above 0.
    """
    weights = list(weights)
    if not weights or not all(w > 0 and math.isfinite(w) for w in weights):
        raise GraftError("effective_clients: give each client a weight above 0")
    return sum(weights) ** 2 / sum(w * w for w in weights)
