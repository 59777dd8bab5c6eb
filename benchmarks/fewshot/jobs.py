"""What there is to run: jobs, their files, their order, and which rates were chosen.

A job is one training with its scores, or one verdict with the trainings behind it; `benchmarks.joblist` has the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.joblist import results as joblist
from graftwork.errors import GraftError
from graftwork_medseg.fewshot.protocol import FOLDS, SHOTS, TASKS

BUDGETS = (0.001, 0.003, 0.01)  # of the base's parameters
SWEEP_FOLD, SWEEP_SHOTS = 3, 5  # the draw that fixes the rates; the table has folds 0 to 2
DRAWS = 3  # random sets a fold
VERDICT_SHOTS, VERDICT_ARM = 5, "lora"
FIXED = ("head", "bias", "affine", "spatial1", "spatial3")
EVERYWHERE = ("lora", "adaptformer")  # a level that fits the cap, or the smallest without a cap
PARTS = ("lora-last", "lora-first", "adaptformer-last")  # as much of the network as fits the cap
SEARCHED = ("random", "sea-peft")
UNCAPPED = ("full", "scratch")
HEAD_RATES = (1e-2, 3e-2, 1e-1)
RATES: dict[str, tuple[float, float, float]] = {
    "bias": (3e-3, 1e-2, 3e-2),
    "affine": (3e-3, 1e-2, 3e-2),
    "spatial1": (1e-3, 3e-3, 1e-2),
    "spatial3": (1e-3, 3e-3, 1e-2),
    "lora": (1e-3, 3e-3, 1e-2),
    "lora-last": (1e-3, 3e-3, 1e-2),
    "lora-first": (1e-3, 3e-3, 1e-2),
    "adaptformer": (1e-3, 3e-3, 1e-2),
    "adaptformer-last": (1e-3, 3e-3, 1e-2),
    "random": (1e-3, 3e-3, 1e-2),
    "full": (1e-4, 3e-4, 1e-3),
    "scratch": (3e-4, 1e-3, 3e-3),
}
SAME_RATE = {"sea-peft": "random"}  # both train sets of the same units


@dataclass(frozen=True)
class Job:
    """One entry of the list.

    `kind`: rate, grid or verdict; `budget`: cap as a share of the base's parameters, None: none; `draw`: which of
    several random sets; `rate`: peak rate inside the network; `head_rate`: of the last convolution.
    """

    kind: str
    task: str
    organs: tuple[str, ...]
    k: int
    fold: int
    arm: str
    budget: float | None = None
    draw: int = 0
    rate: float = 0.0
    head_rate: float = 0.0

    @property
    def name(self) -> str:
        """The file's name without its ending; rates are in the file, except where they tell jobs apart."""
        cap = "" if self.budget is None else f"-b{100 * self.budget:g}"
        draw = f"-d{self.draw}" if self.draw else ""
        own = self.head_rate if self.arm == "head" else self.rate
        rate = f"-r{own:g}" if self.kind == "rate" else ""
        return (
            f"{self.kind}-{self.task}-{'+'.join(self.organs)}-k{self.k}-f{self.fold}-{self.arm}"
            f"{cap}{draw}{rate}"
        )

    @property
    def waits_for(self) -> Job | None:
        """The job whose seconds this one trains for: the U-Net from scratch gets full fine-tuning's."""
        if self.arm != "scratch":
            return None
        rate = RATES["full"][1] if self.kind == "rate" else 0.0
        return replace(self, arm="full", rate=rate)


def rate_jobs(task: str, head_rate: float | None) -> list[Job]:
    """The sweep of one task: the head's rate first (`head_rate` None), then each arm's."""
    base = Job("rate", task, TASKS[task].novel, SWEEP_SHOTS, SWEEP_FOLD, "head")
    if head_rate is None:
        return [replace(base, head_rate=r, rate=r) for r in HEAD_RATES]
    out = []
    for arm in arms_of(task):
        cap = max(BUDGETS) if arm in PARTS or arm == "random" else None
        for rate in RATES.get(arm, ()):
            out.append(replace(base, arm=arm, budget=cap, rate=rate, head_rate=head_rate))
    return out


def sweep_jobs(results: Results, task: str) -> list[Job]:
    """The arms' trials, at the head rate that won.

    Raises GraftError when the head's own trials are not all there.
    """
    head, _ = choose_rate(results, rate_jobs(task, None))
    return rate_jobs(task, head)


def arms_of(task: str) -> tuple[str, ...]:
    """The arms of a task, in the table's order."""
    spatial = FIXED if task == "hippocampus" else ("head", "bias", "affine")
    return (*spatial, *EVERYWHERE, *PARTS, *SEARCHED, *UNCAPPED)


def grid_jobs(task: str) -> list[Job]:
    """The table's jobs of one task, without rates, in the order in which they are run.

    Fold by fold, 5 and 1 shots before 10: a cut leaves whole comparisons. Further random sets, and openkbp's smaller
    budgets, come last.
    """
    ks = [k for k in (5, 1, 10) if k in SHOTS and (task == "hippocampus" or k != 10)]
    first, later = [], []
    for fold in FOLDS:
        for k in ks:
            base = Job("grid", task, TASKS[task].novel, k, fold, "")
            for arm in arms_of(task):
                one = replace(base, arm=arm)
                if arm not in (*EVERYWHERE, *PARTS, *SEARCHED):
                    first.append(one)
                    continue
                if arm in EVERYWHERE:
                    first.append(one)
                for budget in reversed(BUDGETS):
                    main = task == "hippocampus" or budget == max(BUDGETS)
                    (first if main else later).append(replace(one, budget=budget))
                    if arm == "random" and main:
                        later += [replace(one, budget=budget, draw=d) for d in range(1, DRAWS)]
    return first + later


def verdict_jobs(task: str) -> list[Job]:
    """One job for each organ and fold."""
    return [
        Job("verdict", task, (organ,), VERDICT_SHOTS, fold, VERDICT_ARM)
        for fold in FOLDS
        for organ in TASKS[task].organs
    ]


class Results(joblist.Results[Job]):
    """The folder of job files."""

    def job_of(self, raw: dict[str, Any]) -> Job:
        """The job that a file holds."""
        return Job(**{**raw, "organs": tuple(raw["organs"])})

    def _read(self, path: Path) -> dict[str, Any]:
        found = super()._read(path)
        found["job"]["organs"] = tuple(found["job"]["organs"])
        return found


def choose_rate(results: Results, jobs: Sequence[Job]) -> tuple[float, list[dict[str, Any]]]:
    """The rate of the highest mean Dice on the pool's cases, and all trials; the head's own rate for the head.

    Raises GraftError when a trial is missing.
    """
    missing = [job for job in jobs if not results.done(job)]
    if missing or not jobs:
        what = missing[0].name if missing else "no trial"
        raise GraftError(f"{results.folder}: lacks {what}; let the rates be swept first")
    trials = []
    for job in jobs:
        found = results.read(job)
        rate = job.head_rate if job.arm == "head" else job.rate
        trials.append({"task": job.task, "arm": job.arm, "rate": rate, "dice": found["dice"]})
    return max(trials, key=lambda t: t["dice"])["rate"], trials


def with_rates(results: Results, task: str, jobs: Iterable[Job]) -> list[Job]:
    """The jobs with the rates that the sweep chose.

    Raises GraftError when the sweep is not finished.
    """
    sweep = sweep_jobs(results, task)
    head = sweep[0].head_rate
    chosen: dict[str, float] = {"head": head}
    out = []
    for job in jobs:
        arm = SAME_RATE.get(job.arm, job.arm)
        if arm not in chosen:
            chosen[arm], _ = choose_rate(results, [j for j in sweep if j.arm == arm])
        out.append(replace(job, rate=chosen[arm], head_rate=head))
    return out
