"""The few-shot jobs' worker processes and their estimates; `benchmarks.joblist.pool` runs them.

Each worker keeps the volumes that it has read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.joblist import clock as clocks
from benchmarks.joblist import pool
from benchmarks.joblist.pool import Worker

from .jobs import EVERYWHERE, Job, Results
from .work import JUDGE_STEPS, Bench, Setting

BULKY = ("scores", "losses", "own", "test")
FIRST = {"hippocampus": 0.05, "openkbp-site": 0.12}


class Clock(clocks.Clock[Job]):
    """Estimates by arm; a unit of work is a training step of the task."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def kind(self, job: Job) -> tuple[str, ...]:
        """An arm's jobs take about the same time, with a cap and without."""
        return (job.kind, job.task, job.arm, "capped" if job.budget else "")

    def group(self, job: Job) -> str:
        """A step takes as long as its task says."""
        return job.task

    def units(self, job: Job) -> float:
        """Training steps, or what takes as long."""
        test = 60.0
        if job.kind == "verdict":
            return 7 * JUDGE_STEPS + 3 * test
        if job.arm in EVERYWHERE and job.budget is not None:
            return 10.0  # it may not fit, which is soon said
        searched = 600 + 20 * 40 * 0.7 if job.arm == "sea-peft" else 0.0
        return self.steps + test + searched

    def first(self, group: str) -> float:
        """Seconds of a step, until something was measured."""
        return FIRST[group]

    @classmethod
    def read(cls, results: Results, steps: int) -> Clock:
        """From the folder's finished jobs."""
        clock = cls(steps)
        clock.learn(results)
        return clock


def run_all(
    jobs: Sequence[Job],
    setting: Setting,
    *,
    workers: int,
    deadline: float | None,
    say: Callable[[str], None],
) -> int:
    """Run what lacks a file, as `benchmarks.joblist.pool.run_all`."""
    results = Results(setting.out)
    return pool.run_all(
        jobs, results, Clock.read(results, setting.training_steps),
        lambda number: _start(setting, number), summary,
        workers=workers, deadline=deadline, say=say,
    )  # fmt: skip


def summary(result: dict[str, Any]) -> str:
    """A result in a few words."""
    if result["status"] != "done":
        return str(result["status"])
    if "said" in result:
        return f"said {result['said']['word']}, true {result['true']['word']}"
    return f"Dice {result['dice']:.4f}, {result['trained']:,d} trained"


def prepare_process(device: str, tuned: bool = True) -> None:
    """Set torch's switches; on a GPU convolution kernels are chosen by trial unless not `tuned`.

    Raises GraftError when there is no GPU for a device other than "cpu".
    """
    import torch

    pool.prepare_process(device)
    if device != "cpu":
        torch.backends.cudnn.benchmark = tuned
        # trials a shape: a job has many shapes and few steps
        torch.backends.cudnn.benchmark_limit = 3


def _start(setting: Setting, number: int) -> Worker[Job]:
    return pool.start_process(_serve, setting, number)


def _serve(line: Connection, setting: Setting, number: int) -> None:
    """Worker `number`: takes jobs until the parent ends it."""
    pool.take_seat(number, setting.device)
    prepare_process(setting.device, setting.tuned)
    pool.answer(line, Bench(setting).run, BULKY)
