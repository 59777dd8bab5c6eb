"""CoRe: for each task a low-rank edit of hidden states in its own subspace (Luo et al. 2026, arXiv 2603.11201).

    h <- h + R_t^T (W_t h + b_t - R_t h),   R_t = C_t U_t,   U_t U_s^T = 0 for s != t      (reconstruction)

A reconstruction: of the paper only the abstract and introduction were to be had. Known is what it is about:
task-specific low-rank edits of a frozen model's representations, as LoReFT's, and an orthogonality constraint on
their projections. The constraint's form, the layers, the rank, the start and the losses are ours, and no figure of
the paper stands for this.

Each task is a graft of its own, with its number. The d dimensions are dealt out beforehand, floor(d / tasks) to each:
U_t are rows of one orthogonal matrix that the seed gives, C_t is trained and its rows are made orthonormal as
LoReFT's R. So R_t R_s^T = 0 whatever was trained, in any order, and training a task touches nothing of another's.
With `reads="own"` W_t = V_t U_t sees its own subspace only: then edits of several tasks, switched on together,
commute and add up.

Shapes: C `(r, m)`, W `(r, d)`, or `(r, m)` with `reads="own"`, b `(r,)`; U `(m, d)`, m = floor(d / tasks), frozen and
drawn from the seed. Initialisation: U permuted signed Hadamard rows and C such rows too, W = R, b = 0: the start is the
base bit for bit.

Departures: all of the above. The text's other objectives and its choice of a task at inference were not to be found:
there is no further loss, and who calls says which task is on (`gw.activate`). The soft form, a penalty on LoReFT's
rows, is `graftwork.isolation`. All positions are edited, [CLS] alone
with `where="ends", first=1, last=0`; `graftwork.interventions` has the rest.
Refuses: merging; half-precision files (W and R would be rounded by more than they differ); tasks whose ranks together
are above the width of the hidden states; a task number above the number of tasks, and untied edits, at construction;
at a call, positions that lie beyond a prompt. With where other than "all": a single layer is not told where the
prompt ends; blocks without batch_first=True. A layer whose weight a fused owner reads.

Invariants:
1. The start equals the base bit for bit.
2. forward = h + R^T (W h + b - R h) by hand; merging is refused.
3. R_t R_s^T = 0 and R_t R_t^T = I after training; the edit of t has no component in the rows of R_s.
4. Training a task leaves the others' tensors and outputs as they were, bit for bit.
5. With reads="own", edits of two tasks at once are one after the other in either order; with reads="all" they are not.
6. r m + r d + r parameters per block, 2 r m + r with reads="own"; U is in no file and comes again from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.errors import GraftError
from graftwork.interventions import Intervention
from graftwork.methods.base import Params, setting, work_dtype
from graftwork.seeded import draw
from graftwork.starts.orthonormal import exact_rows, hadamard_rows, orthonormal

CARD: dict[str, Any] = {
    "id": "core",
    "class": "CoRe",
    "kind": "intervention",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear", "block"],
    "parameters": "r (out/N + out + 1)",
    "paper": "arXiv 2603.11201 (reconstruction)",
    "choose": "tasks in sequence, each with an edit of its own on one frozen model",
}


@dataclass(frozen=True)
class CoRe(Intervention):
    """One task's edit of hidden states, in its own subspace.

    Args:
        tasks: how many tasks share the width; the same for all of them.
        task: the number of this one, from 1.
        reads: "all" lets the edit depend on all of h, "own" on the task's subspace only.
        seed: of the subspaces; the same for all tasks.
    """

    where: str = setting("all", choices=("ends", "prompt", "all"))
    tasks: int = setting(10, low=1)
    task: int = setting(1, low=1)
    reads: str = setting("all", choices=("all", "own"))
    seed: int = setting(0, low=0)

    half_files: ClassVar[bool] = False
    id: ClassVar[str] = "core"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task > self.tasks:
            raise GraftError(f"CoRe.task = {self.task} is above the number of tasks, {self.tasks}")
        if not self.tied:
            raise GraftError("CoRe.tied: a task has one edit; untied edits would share a subspace")

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        if self.rank > geo.out // self.tasks:
            own = f"CoRe.rank = {self.rank} for each of CoRe.tasks = {self.tasks}"
            return f"{own}: together above the width of the hidden states, {geo.out}"
        return super().refuses(geo, bias)

    def seeded(self, geo: Geometry, weight: Tensor) -> dict[str, Tensor]:
        like = torch.empty((), dtype=work_dtype(weight), device=weight.device)
        d, m = geo.out, geo.out // self.tasks
        if like.is_meta:
            return {"U": like.new_empty(m, d)}
        blank = torch.empty(0)
        order, columns, signs = (
            draw((d,), 1.0, self.seed, f"core {what}", blank)
            for what in ("rows", "columns", "signs")
        )
        mine = order.argsort(stable=True)[m * (self.task - 1) : m * self.task]
        u = hadamard_rows(mine, d)[:, columns.argsort(stable=True)]
        return {"U": torch.where(signs < 0, -u, u).to(like)}

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        u = self.seeded(geo, weight)["U"]
        c = exact_rows(self.rank, u, u.shape[0])
        w = c.clone() if self.reads == "own" else c @ u
        return {"C": c, "W": w, "b": c.new_zeros(self.rank)}

    def rows(self, p: Params) -> Tensor:
        return orthonormal(p["C"]) @ p["U"]

    def edit(self, p: Params, h: Tensor) -> Tensor:
        c = orthonormal(p["C"])
        if self.reads == "own":
            inner = F.linear(F.linear(h, p["U"]), p["W"] - c, p["b"])
        else:
            inner = F.linear(h, p["W"] - c @ p["U"], p["b"])
        return F.linear(F.linear(inner, c.mT), p["U"].mT)
