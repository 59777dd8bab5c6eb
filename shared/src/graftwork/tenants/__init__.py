"""Many fine-tuning tasks on one frozen backbone (MuxTune, arXiv 2603.02885).

Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "CostModel": "graftwork.tenants.cost",
    "Plan": "graftwork.tenants.plan",
    "Planner": "graftwork.tenants.plan",
    "Run": "graftwork.tenants.cost",
    "TaskLoad": "graftwork.tenants.cost",
    "fit": "graftwork.tenants.cost",
    "microbatches": "graftwork.tenants.schedule",
}

if TYPE_CHECKING:
    from graftwork.tenants.cost import CostModel, Run, TaskLoad, fit
    from graftwork.tenants.plan import Plan, Planner
    from graftwork.tenants.schedule import microbatches

__all__ = ["CostModel", "Plan", "Planner", "Run", "TaskLoad", "fit", "microbatches"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftwork.tenants' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
