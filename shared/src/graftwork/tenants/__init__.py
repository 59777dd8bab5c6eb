"""Many fine-tuning tasks on one frozen backbone: one pass for all, each with its own adapter, loss and optimizer.

Names load on first use: what plans imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Aligned": "graftwork.tenants.align",
    "Aligner": "graftwork.tenants.aligner",
    "CostModel": "graftwork.tenants.cost",
    "Joined": "graftwork.tenants.batches",
    "Mix": "graftwork.tenants.mix",
    "Outcome": "graftwork.tenants.steps",
    "Plan": "graftwork.tenants.plan",
    "Planner": "graftwork.tenants.plan",
    "Run": "graftwork.tenants.cost",
    "Recordings": "graftwork.tenants.recorded",
    "Runner": "graftwork.tenants.runner",
    "Segments": "graftwork.tenants.segments",
    "Shape": "graftwork.tenants.layouts",
    "Shelf": "graftwork.tenants.shelf",
    "Task": "graftwork.tenants.task",
    "TaskLoad": "graftwork.tenants.cost",
    "Tenant": "graftwork.tenants.task",
    "fit": "graftwork.tenants.cost",
    "microbatches": "graftwork.tenants.schedule",
    "mixed": "graftwork.tenants.mix",
}

if TYPE_CHECKING:
    from graftwork.tenants.align import Aligned
    from graftwork.tenants.aligner import Aligner
    from graftwork.tenants.batches import Joined
    from graftwork.tenants.cost import CostModel, Run, TaskLoad, fit
    from graftwork.tenants.layouts import Shape
    from graftwork.tenants.mix import Mix, mixed
    from graftwork.tenants.plan import Plan, Planner
    from graftwork.tenants.recorded import Recordings
    from graftwork.tenants.runner import Runner
    from graftwork.tenants.schedule import microbatches
    from graftwork.tenants.segments import Segments
    from graftwork.tenants.shelf import Shelf
    from graftwork.tenants.steps import Outcome
    from graftwork.tenants.task import Task, Tenant

__all__ = [
    "Aligned",
    "Aligner",
    "CostModel",
    "Joined",
    "Mix",
    "Outcome",
    "Plan",
    "Planner",
    "Recordings",
    "Run",
    "Runner",
    "Segments",
    "Shape",
    "Shelf",
    "Task",
    "TaskLoad",
    "Tenant",
    "fit",
    "microbatches",
    "mixed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftwork.tenants' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
