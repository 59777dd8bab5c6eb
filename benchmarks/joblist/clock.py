"""How long jobs take: by kind where one of its jobs is done, else by units of work."""

from __future__ import annotations

import statistics
from typing import Generic

from benchmarks.joblist.results import J, Results


class Clock(Generic[J]):
    """Estimates of a job's seconds on one worker, from what was measured."""

    def __init__(self) -> None:
        self._same: dict[tuple[str, ...], list[float]] = {}
        self._speeds: dict[str, list[float]] = {}

    def kind(self, job: J) -> tuple[str, ...]:
        """Jobs of one kind take about the same time."""
        raise NotImplementedError

    def group(self, job: J) -> str:
        """Jobs of one group share the seconds that a unit of work takes."""
        raise NotImplementedError

    def units(self, job: J) -> float:
        """How long a job is: what scales between the kinds of a group, roughly."""
        raise NotImplementedError

    def first(self, group: str) -> float:
        """Seconds of a unit of work, until something was measured."""
        raise NotImplementedError

    def note(self, job: J, seconds: float) -> None:
        """Learn from a job that took `seconds`."""
        self._same.setdefault(self.kind(job), []).append(seconds)
        self._speeds.setdefault(self.group(job), []).append(seconds / self.units(job))

    def estimate(self, job: J) -> float:
        """Seconds of a job on one worker."""
        same = self._same.get(self.kind(job))
        if same:
            return statistics.median(same)
        known = self._speeds.get(self.group(job))
        unit = statistics.median(known) if known else self.first(self.group(job))
        return unit * self.units(job)

    def learn(self, results: Results[J]) -> None:
        """Note the folder's finished jobs."""
        for found in results.all():
            if "wall" in found:
                self.note(results.job_of(found["job"]), found["wall"])
