"""What there is to run: each arm's three rates on one seed, further seeds at the best, the same through peft.

The rate is chosen on laboratories that are in no figure: the most exact answers, then the lowest loss. The order is
that of what may be dropped, from the end: third seed, peft's arms, rates (`--rates 1` tries the middle one alone).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.joblist import clock as clocks
from benchmarks.joblist.failures import NotedResults
from benchmarks.trees.arms import ARMS, NONE, OURS, PEFT, TWINS
from graftwork.errors import GraftError
from graftwork_runs import validate_record

SEEDS = 3
STEPS_FILE = "timing/steps.json"  # the timing's record, until it is put among the others
ANSWERING = 20.0  # seconds of a job beside its training, a guess until a job is done


@dataclass(frozen=True)
class Job:
    """One training with its answers; `library` NONE is the model as it is.

    The first seed tries the rates; a further one takes the best of them, and has 0 here.
    """

    library: str
    arm: str
    seed: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        if self.library == NONE:
            return "ungrafted"
        rate = f"-r{self.rate:g}" if self.seed == 0 else ""
        return f"{self.library}-{self.arm}-s{self.seed}{rate}"

    @property
    def waits_for(self) -> None:
        """`Results.ready` says it: a further seed needs all rates."""
        return None


class Results(NotedResults[Job]):
    """The folder of job files. `rates`: how many each arm tries, 1 or 3."""

    def __init__(self, folder: str | Path, rates: int = 3) -> None:
        super().__init__(folder)
        self.rates = rates

    def job_of(self, raw: dict[str, Any]) -> Job:
        """The job that a file holds."""
        return Job(**raw)

    def done(self, job: Job) -> bool:
        """Whether a job's result is there; a further seed's counts at the rate that is the best by now alone."""
        there = super().done(job)
        if not there or job.library == NONE or job.seed == 0:
            return there
        chosen = best(self, job.library, job.arm)
        return chosen is None or self.read(job)["rate"] == chosen["rate"]

    def ready(self, job: Job) -> bool:
        """A further seed can start when each rate of its arm is done or has failed, and one is done."""
        if job.library == NONE or job.seed == 0:
            return True
        tried = rate_jobs(job.library, job.arm, self.rates)
        settled = all(self.done(j) or self.note(j).is_file() for j in tried)
        return settled and any(map(self.done, tried))


class Clock(clocks.Clock[Job]):
    """Estimates by arm: what was measured, else the timed steps and a guess of the rest.

    A unit of work is a second on a card of its own; how much longer a worker takes that shares one is learned.
    """

    def __init__(self, folder: Path, steps: int = 240) -> None:
        super().__init__()
        self.steps, self.timed = steps, timed_steps(folder)

    def kind(self, job: Job) -> tuple[str, ...]:
        """Rates and seeds do not matter."""
        return (job.library, job.arm)

    def group(self, job: Job) -> str:
        """All arms share a card alike."""
        return "card"

    def units(self, job: Job) -> float:
        """Seconds of the training by its timed step, or by one of a tenth of a second; and those of the answers."""
        if job.library == NONE:
            return ANSWERING
        name = job.arm if job.library == OURS else f"{job.arm}, peft"
        step = self.timed.get(
            name, self.timed.get("LoRA, peft" if job.library == PEFT else "LoRA", 0.1)
        )
        return self.steps * step + ANSWERING

    def first(self, group: str) -> float:
        """As if no card were shared."""
        return 1.0


def timed_steps(folder: Path) -> dict[str, float]:
    """Seconds of a step by row of the timing's record, where there is one."""
    path = folder / STEPS_FILE
    if not path.is_file():
        return {}
    rows = validate_record(path).find(metric="step")
    return {row.variant: row.value / 1000 for row in rows if row.value is not None}


def arms_of(library: str) -> tuple[str, ...]:
    """A library's arms in the table's order."""
    return tuple(ARMS) if library == OURS else TWINS


def rate_jobs(library: str, arm: str, rates: int) -> list[Job]:
    """The first seed at each rate, or at the middle one alone."""
    tried = ARMS[arm].rates if rates == 3 else ARMS[arm].rates[1:2]
    return [Job(library, arm, 0, rate) for rate in tried]


def trials(results: Results, library: str, arm: str) -> list[dict[str, Any]]:
    """The results of the first seed at each rate that are there."""
    jobs = [Job(library, arm, 0, rate) for rate in ARMS[arm].rates]
    return [results.read(job) for job in jobs if results.done(job)]


def best(results: Results, library: str, arm: str) -> dict[str, Any] | None:
    """The first seed's result with the most exact answers on the laboratories for the choice, then the lowest loss.

    `None` where no rate is done, or none converged.
    """
    found = [t for t in trials(results, library, arm) if t["status"] == "done"]
    return max(
        found, key=lambda t: (t["choice"]["exact match"], -t["choice"]["loss"]), default=None
    )


def listed(rates: int = 3, seeds: int = SEEDS) -> list[Job]:
    """All jobs in the order in which they are run.

    Args:
        rates: how many each arm tries, 1 or 3. seeds: how many each arm has at its best rate.

    Raises:
        GraftError: other numbers.
    """
    if rates not in (1, 3):
        raise GraftError(f"--rates {rates}: must be 1, the middle one, or 3")
    if seeds < 1:
        raise GraftError(f"--seeds {seeds}: must be at least 1")
    found = [Job(NONE, "none")]
    for library in (OURS, PEFT):
        found += [j for arm in arms_of(library) for j in rate_jobs(library, arm, rates)]
        found += [Job(library, arm, 1) for arm in arms_of(library) if seeds > 1]
    for seed in range(2, seeds):
        found += [Job(library, arm, seed) for library in (OURS, PEFT) for arm in arms_of(library)]
    return found
