"""What there is to run on one card, in the order of its worth, and how long each job takes.

A job is one of another benchmark's, and its result is that benchmark's file: `OUT/headline/LoFT-0.json` and so on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contamination import jobs as contamination
from benchmarks.joblist import clock as clocks
from benchmarks.joblist.failures import NotedResults
from benchmarks.maritime import headline
from benchmarks.maritime.headline import FEW_SHOT, has_graft
from benchmarks.maritime.slots.work import HEAD, LORA, ONCE
from benchmarks.maritime.slots.work import listed as slots_listed
from graftwork.errors import GraftError

HEADLINE, SLOTS, CONTAMINATION, LIVE = PARTS = ("headline", "slots", "contamination", "live")
LIVE_GRAFT, LIVE_BOTH, LIVE_PARTS = "graft", "both", 8  # stages of a training, parts of exchanges
BLIND = ("seventh", "eighth")  # sets of a coast station's wordings that no lesson has
BLIND_SHIPS = ("fifth", "sixth")  # and of a ship's, to which the graft answers as coast station
AS_COAST = "coast-"  # the names of those exchanges begin with it
TUNINGS, COPIES = ("2", "8", "64", "full"), (0, 10, 1, 5)
TINY_TUNINGS, TINY_COPIES = ("2", "full"), (0, 3)

# Seconds on a card that three jobs share, until OUT has a figure. The headline's are measured, all others guessed.
TRAINING, WRITING, FEW_SHOT_WRITING = 245.0, 130.0, 473.0
SLOTS_SECONDS, BASE_SECONDS, TUNED_SECONDS, FITTING, LIVE_SECONDS = 120.0, 5.0, 60.0, 800.0, 150.0
TINY_SECONDS = 10.0
CONSTRAINED = 1.3  # of the writing: a guide takes 0.1 ms a token
TRIALS = (
    1 + 3 * headline.Size.trial / headline.Size.steps
)  # of a training: the first also tries three rates


@dataclass(frozen=True)
class Job:
    """A job of a part's benchmark.

    Args:
        part: one of PARTS. key: the name of its files.
    """

    part: str
    key: str

    @property
    def name(self) -> str:
        """Of its note when it fails, and in the progress."""
        return f"{self.part}-{self.key}"

    @property
    def waits_for(self) -> Job | None:
        """A fine-tuning needs its base, an exchange the graft that answers, and its second stage the first."""
        if self.part == CONTAMINATION and not self.key.startswith(contamination.BASE):
            return Job(CONTAMINATION, f"{contamination.BASE}-{self.key.rpartition('-')[2]}")
        if self.part == LIVE and self.key != LIVE_GRAFT:
            return Job(LIVE, LIVE_BOTH if self.key.startswith(AS_COAST) else LIVE_GRAFT)
        return None


def headline_jobs() -> dict[str, headline.Job]:
    """The headline's jobs by name, each free and constrained."""
    free = headline.listed()
    held = [headline.Job(j.arm, j.seed, constrained=True) for j in free]
    return {j.name: j for j in (*free, *held)}


def contamination_jobs(tiny: bool = False) -> list[contamination.Job]:
    """A base and its fine-tunings: nothing seen and ten copies first, for they say the most."""
    tunings, copies = (TINY_TUNINGS, TINY_COPIES) if tiny else (TUNINGS, COPIES)
    found = contamination.listed([0], tunings, [2 if tiny else 20], copies)
    return sorted(found, key=lambda job: job.copies not in COPIES[:2])


def listed(tiny: bool = False, parts: Sequence[str] = PARTS) -> list[Job]:
    """All jobs: a first seed of every arm, what is built on it, then second seeds, then the rest.

    Raises GraftError for a part that does not exist.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise GraftError(f"--parts {unknown[0]!r}: unknown; choose of {', '.join(PARTS)}")
    known = headline_jobs()
    arms = ("LoFT", "GOAT", "LoRA", "DiaBlo")  # the longest first
    free = [[f"{arm}-{seed}" for arm in arms] for seed in headline.SEEDS]
    held = [[f"{name}-constrained" for name in names] for names in free]
    few = [name for name, job in known.items() if job.arm == FEW_SHOT]  # that of seed 0 first
    asked = [j.name for j in contamination_jobs(tiny)]
    slots = [j.name for j in slots_listed((LORA, HEAD, ONCE))]
    sets = (*BLIND, *(f"{AS_COAST}{said}" for said in BLIND_SHIPS))
    exchanges = [f"{said}-{n}of{LIVE_PARTS}" for said in sets for n in range(LIVE_PARTS)]
    half = 1 + len(asked) // 2
    order = [
        (HEADLINE, free[0]),
        (LIVE, [LIVE_GRAFT, LIVE_BOTH]),
        (HEADLINE, few[:1]),
        (SLOTS, slots[:3]),
        (HEADLINE, held[0]),
        (LIVE, exchanges),
        (CONTAMINATION, asked[:half]),
        *((HEADLINE, names) for names in free[1:]),
        (CONTAMINATION, asked[half:]),
        *((HEADLINE, names) for names in (*held[1:], few[1:])),
        (SLOTS, slots[3:]),
    ]
    return [Job(part, key) for part, keys in order for key in keys if part in parts]


class Results(NotedResults[Job]):
    """The folders of all parts: OUT/PART/KEY.json."""

    def path(self, job: Job) -> Path:
        """Where the part's own benchmark writes its result."""
        return self.folder / job.part / f"{job.key}.json"

    def ready(self, job: Job) -> bool:
        """Whether what a job needs is there; a graft that writes again must have been trained and kept."""
        known = headline_jobs().get(job.key) if job.part == HEADLINE else None
        if known is not None and known.constrained and known.arm != FEW_SHOT:
            return has_graft(self.folder / HEADLINE, known)
        return super().ready(job)

    def found(self, job: Job) -> dict[str, Any]:
        """A result's fields; empty where there is none yet.

        Raises GraftError for a damaged file.
        """
        path = self.path(job)
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise GraftError(f"{path}: is damaged ({error}); remove it, and run again") from None

    def clean(self) -> None:
        """Remove what a killed run was writing, and forget what failed."""
        super().clean()
        for part in PARTS:
            for rest in (self.folder / part).glob(".*.tmp"):
                rest.unlink(missing_ok=True)


class Clock(clocks.Clock[Job]):
    """Estimates from what OUT holds, scaled by how long this run's jobs of the same part took."""

    def __init__(self, results: Results, jobs: Iterable[Job], tiny: bool = False) -> None:
        super().__init__()
        self._training, self._writing = _measured(results)
        self.results = results
        # as they are before anything runs: a job that has left its graft does not look shorter afterwards
        self._seconds = {job: TINY_SECONDS if tiny else self._expected(job) for job in jobs}

    def kind(self, job: Job) -> tuple[str, ...]:
        """No two are alike: one trains and writes, another only writes."""
        return (job.part, job.key)

    def group(self, job: Job) -> str:
        """A part's jobs are as much slower than expected as each other."""
        return job.part

    def units(self, job: Job) -> float:
        """The seconds that are expected."""
        return self._seconds[job]

    def first(self, group: str) -> float:
        """As expected."""
        return 1.0

    def _expected(self, job: Job) -> float:
        if job.part == SLOTS:
            return SLOTS_SECONDS
        if job.part == CONTAMINATION:
            return BASE_SECONDS if job.key.startswith(contamination.BASE) else TUNED_SECONDS
        if job.part == LIVE:
            return FITTING if job.key in (LIVE_GRAFT, LIVE_BOTH) else LIVE_SECONDS
        return self._of_headline(headline_jobs()[job.key])

    def _of_headline(self, job: headline.Job) -> float:
        out = self.results.folder / HEADLINE
        seconds = self._writing.get(job.arm, FEW_SHOT_WRITING if job.arm == FEW_SHOT else WRITING)
        if job.constrained:
            return CONSTRAINED * seconds
        if job.arm == FEW_SHOT or has_graft(out, job):
            return seconds
        tried = (out / f"rate-{job.arm}.json").is_file()
        return seconds + self._training.get(job.arm, TRAINING) / (TRIALS if tried else 1)


def _measured(results: Results) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds by arm of a training that tries its rates, and of the writing.

    A result whose training is longer than all of its run went on from an earlier run's graft.
    """
    trained: dict[str, list[float]] = {}
    written: dict[str, list[float]] = {}
    for key, job in headline_jobs().items():
        found = results.found(Job(HEADLINE, key))
        note = results.folder / HEADLINE / "grafts" / f"{job.graft}.json"
        known = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else found
        training = float(known.get("training seconds", 0.0))
        if training and not job.constrained:
            trained.setdefault(job.arm, []).append(training * (TRIALS if job.seed else 1.0))
        if found and not job.constrained:
            whole = float(found["seconds"])
            written.setdefault(job.arm, []).append(whole - training if whole > training else whole)
    return (
        {arm: statistics.median(values) for arm, values in trained.items()},
        {arm: statistics.median(values) for arm, values in written.items()},
    )
