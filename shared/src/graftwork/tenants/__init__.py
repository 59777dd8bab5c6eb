"""Many fine-tuning tasks on one frozen backbone: one pass for all, each with its own adapter, loss and optimizer."""

from __future__ import annotations

from graftwork.tenants.batches import Joined
from graftwork.tenants.mix import Mix, mixed
from graftwork.tenants.runner import Runner
from graftwork.tenants.segments import Segments
from graftwork.tenants.shelf import Shelf
from graftwork.tenants.steps import Outcome
from graftwork.tenants.task import Task, Tenant

__all__ = ["Joined", "Mix", "Outcome", "Runner", "Segments", "Shelf", "Task", "Tenant", "mixed"]
