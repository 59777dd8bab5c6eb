"""`medseg demo`: the demo's plan from the command's options, its run, and its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from graftwork.errors import GraftError

from ..progress import Progress
from . import report, run


def train_and_report(
    folder: Path, seeds: int, steps: int | None, *, dry_run: bool, quiet: bool
) -> list[str]:
    """Run the demo in `folder`; the lines that its user reads.

    Raises:
        GraftError: no seed, or fewer than two steps.
    """
    plan = run.DemoPlan()
    if seeds < 1 or (steps is not None and steps < 2):
        raise GraftError("demo: seeds must be at least 1 and steps at least 2")
    plan = dataclasses.replace(plan, seeds=tuple(range(seeds)), steps=steps or plan.steps)
    if dry_run:
        plan = run.DemoPlan(seeds=(0,), steps=2, train=1, test=1)
    out = run.run(plan, folder / "graft", Progress(run.work(plan), quiet=quiet))
    report.write(out, folder)
    return report.lines(out, folder)
