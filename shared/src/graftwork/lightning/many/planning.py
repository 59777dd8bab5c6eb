"""A cost model of the shared backbone, measured before training, and the plans that follow from it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from graftwork.errors import GraftError
from graftwork.lightning.many.built import Built, Shared
from graftwork.tenants.cost import CostModel, Fit, Run, TaskLoad, fit, real_rows, state_bytes
from graftwork.tenants.measure import measured
from graftwork.tenants.plan import Plan, Planner
from graftwork.tenants.ranks import Ranks
from graftwork.tenants.runner import Runner
from graftwork.tenants.task import Tenant


def state_of(tenant: Tenant) -> int:
    """Bytes that a tenant keeps on the device: weights, gradients, two moments."""
    return sum(state_bytes(p.numel(), p.element_size()) for p in tenant.parameters)


class Planning:
    """What the runner's plan is asked for.

    Args:
        shared: the backbone and the jobs.
        memory: cap in bytes; `None` for none.
        fairness: as `Planner` takes it.
        cost: of an earlier part of the same run; it is measured by `measure` without.
    """

    def __init__(
        self, shared: Shared, memory: int | None, fairness: float, cost: CostModel | None = None
    ) -> None:
        self.shared, self.memory, self.fairness, self.cost = shared, memory, fairness, cost
        self.fitted: Fit | None = None
        self.runs: list[Run] = []
        self.first: Plan | None = None
        self._loads: dict[str, TaskLoad] = {}

    def measure(self, runner: Runner) -> None:
        """Time some groups of jobs in each layout, and fit the cost model; nothing of any job changes."""
        state = sum(map(state_of, runner.tenants.values()))
        for group in _trials(self.shared.jobs):
            loads = [b.load(0) for b in group]
            inputs = {b.job.name: b.sample for b in group}
            aligner = self.shared.aligner(loads)
            lengths = [n for load in loads for n in load.lengths]
            shapes = real_rows(loads) if aligner is None else aligner.candidates(lengths)
            for shape in shapes:
                try:
                    with contextlib.nullcontext() if aligner is None else aligner.only(shape):
                        run = measured(
                            self.shared.model,
                            self.shared.body,
                            self.shared.join,
                            inputs,
                            shape,
                            repeats=2,
                            state=state,
                        )
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    continue
                self.runs.append(run)
        try:
            self.fitted = fit(self.runs, self.shared.backbone)
        except GraftError:  # all passes are of one size, so there is nothing to choose by size
            slowest = max(self.runs, key=lambda r: r.seconds)
            peak = max(r.bytes or 0 for r in self.runs)
            rest = max(0, peak - self.shared.backbone - state)
            self.cost = CostModel(
                per_row=slowest.seconds / slowest.shape.rows,
                backbone=self.shared.backbone,
                row_bytes=rest / slowest.shape.rows,
            )
        else:
            self.cost = self.fitted.model

    def agree(self, ranks: Ranks | None) -> None:
        """In several processes: the first one's cost model, and of each job the rows of the process that has most."""
        if ranks is None:
            return
        self.cost = ranks.firsts(self.cost)
        everyones = ranks.everyones([(b.kind, b.lengths) for b in self.shared.jobs])
        ranks.check_alike("kinds of rows", [b.kind for b in self.shared.jobs])
        for i, b in enumerate(self.shared.jobs):
            b.lengths = max((theirs[i][1] for theirs in everyones), key=lambda n: (sum(n), n))

    def __call__(self, tenants: Sequence[Tenant]) -> Plan:
        """The plan of those that are running.

        Raises:
            GraftError: a job that does not fit under the cap even alone.
        """
        assert self.cost is not None
        jobs = {b.job.name: b for b in self.shared.jobs}
        self._loads = {t.name: jobs[t.name].load(state_of(t)) for t in tenants}
        if self.cost.own:  # several layouts were timed: passes take the one that the plan counts on
            state = sum(load.state for load in self._loads.values())
            for aligner in self.shared.aligners.values():
                aligner.pick = functools.partial(self.cost.least, state=state, cap=self.memory)
        plan = self._planner().plan(self._loads.values())
        self.first = self.first or plan
        return plan

    def seconds(self, plan: Plan) -> float:
        """Predicted of one round: a cycle of the plan."""
        planner = self._planner()
        state = sum(load.state for load in self._loads.values())
        return sum(
            n * planner.seconds([self._loads[name] for name in group], state)
            for group, n in zip(plan.groups, plan.turns, strict=True)
        )

    def wastes(self, plan: Plan) -> dict[str, dict[str, float]]:
        """By partition and layout, the share of rows without a token, of the jobs' first batches."""
        out = {}
        partitions = {
            "planned": plan.chosen,
            "all alone": plan.alone,
            "all together": plan.together,
        }
        for name, partition in partitions.items():
            rows: dict[str, int] = {}
            real = 0
            for group in partition.groups:
                members = [b for b in self.shared.jobs if b.job.name in group and b.tokens]
                lengths = [n for b in members for n in b.lengths]
                if not lengths:
                    continue
                real += sum(lengths)
                aligner = self.shared.aligners[members[0].part]
                shapes = aligner.candidates(lengths)
                for layout in dict.fromkeys(s.layout for s in shapes):
                    least = min(s.rows for s in shapes if s.layout == layout)
                    rows[layout] = rows.get(layout, 0) + least
                rows["taken"] = rows.get("taken", 0) + aligner.choice(lengths).rows
            out[name] = {k: 1 - real / n for k, n in rows.items()}
        return out

    def told(self) -> dict[str, Any]:
        """Cost model, measured runs, errors and the first plan as plain JSON."""
        plan = self.first
        assert plan is not None and self.cost is not None
        return {
            "cost": self.cost.row(),
            "runs": [
                {**asdict(r.shape), "tasks": r.tasks, "seconds": r.seconds, "bytes": r.bytes}
                for r in self.runs
            ],
            "errors": None
            if self.fitted is None
            else {"time": self.fitted.time_errors, "memory": self.fitted.memory_errors},
            "groups": [list(g) for g in plan.groups],
            "layouts": [s.layout for s in plan.chosen.shapes],
            "turns": list(plan.turns),
            "fairness": plan.fairness,
            "cap": plan.cap,
            "plans": {
                name: {
                    "groups": len(p.groups),
                    "seconds": p.seconds,
                    "bytes": p.bytes,
                    "fits": p.fits,
                    "fair": p.fair,
                }
                for name, p in (
                    ("planned", plan.chosen),
                    ("all alone", plan.alone),
                    ("all together", plan.together),
                )
            },
            "waste": self.wastes(plan),
        }

    def _planner(self) -> Planner:
        assert self.cost is not None
        return Planner(
            self.cost, cap=self.memory, fairness=self.fairness, shapes=self.shared.shapes
        )


def _trials(jobs: Sequence[Built]) -> list[list[Built]]:
    """The smallest and the largest job alone, and of each kind of rows a half and all together."""
    ordered = sorted(jobs, key=lambda b: (sum(b.lengths), b.job.name))
    trials = [[ordered[0]], [ordered[-1]]]
    for kind in sorted({b.kind for b in jobs}):
        same = [b for b in ordered if b.kind == kind]
        trials += [same[: (len(same) + 1) // 2], same]
    return trials
