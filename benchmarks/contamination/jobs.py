"""What there is to run: for each seed a base, and for each tuning, length and number of copies a contaminated model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.joblist import clock as clocks
from benchmarks.joblist.failures import NotedResults
from graftwork.errors import GraftError

BASE = "base"


@dataclass(frozen=True)
class Job:
    """A base (`tuning` BASE), or one fine-tuning of it with its scores."""

    seed: int
    tuning: str = BASE
    epochs: int = 0
    copies: int = 0

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        if self.tuning == BASE:
            return f"base-s{self.seed}"
        return f"{self.tuning}-e{self.epochs}-c{self.copies}-s{self.seed}"

    @property
    def waits_for(self) -> Job | None:
        """A fine-tuning needs its base."""
        return None if self.tuning == BASE else Job(self.seed)


class Results(NotedResults[Job]):
    """The folder of job files."""

    def job_of(self, raw: dict[str, Any]) -> Job:
        """The job that a file holds."""
        return Job(**raw)

    def why(self, job: Job) -> str:
        """What a failed job said; "not run" for one that did not fail."""
        note = self.note(job)
        if not note.is_file():
            return "not run"
        return f"failed: {json.loads(note.read_text(encoding='utf-8'))['error']}"[:200]


class Clock(clocks.Clock[Job]):
    """Estimates: tunings of one length and number of copies take about as long as each other."""

    def __init__(self, train: int, group: int, first: float) -> None:
        super().__init__()
        self.train, self.group_size, self.guess = train, group, first

    def kind(self, job: Job) -> tuple[str, ...]:
        """Seeds do not matter."""
        return (job.tuning, str(job.epochs), str(job.copies))

    def group(self, job: Job) -> str:
        """Bases are apart."""
        return BASE if job.tuning == BASE else "tuned"

    def units(self, job: Job) -> float:
        """Training texts, and a fixed share for the scores."""
        return (
            1.0
            if job.tuning == BASE
            else 1 + job.epochs * (self.train + job.copies * self.group_size) / 4000
        )

    def first(self, group: str) -> float:
        """Seconds of a unit, until one was measured."""
        return self.guess


def listed(
    seeds: Sequence[int], tunings: Sequence[str], epochs: Sequence[int], copies: Sequence[int]
) -> list[Job]:
    """All jobs, seed by seed: what is left out at the end of the time is whole seeds.

    Raises:
        GraftError: an empty list, a negative number, or no control of 0 copies.
    """
    for name, values in (
        ("seeds", seeds),
        ("tunings", tunings),
        ("epochs", epochs),
        ("copies", copies),
    ):
        if not values or len(set(values)) != len(values):
            raise GraftError(f"--{name}: needs different values, at least one")
    if min(seeds) < 0 or min(epochs) < 1 or min(copies) < 0:
        raise GraftError("--seeds, --copies: 0 or more; --epochs: 1 or more")
    if 0 not in copies:
        raise GraftError("--copies: needs 0, the control in which nothing was seen")
    bases = [Job(s) for s in seeds]
    return bases + [Job(s, t, e, c) for s in seeds for e in epochs for t in tunings for c in copies]
