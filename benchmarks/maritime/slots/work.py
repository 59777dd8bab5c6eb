"""The arms, and what a job does: train on composed dialogues, then say the slots of every set's dialogues."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.maritime.headline import Job
from benchmarks.maritime.slots.sets import sets
from benchmarks.maritime.slots.spans import Span, read
from benchmarks.trees.training import Plan
from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic

LORA, ONCE, HEAD, SMALL, RULES = (
    "LoRA", "LoRA read once", "head alone", "small tagger", "rules",
)  # fmt: skip
ARMS = (LORA, HEAD, ONCE, SMALL, RULES)
SEEDS = (0, 1, 2, 3, 4)
ON_GPU, ON_CPU = Plan(steps=250, batch=16), Plan(steps=500, batch=8)
TRAIN, TEST = 1, 2  # seeds of the scenarios
COUNTS = {"train": 1500, "test": 200}


@dataclass(frozen=True)
class Size:
    """How much is trained and read."""

    train: int | None = None
    model: Plan = ON_GPU
    small: Plan = ON_CPU
    test: int | None = None

    @classmethod
    def tiny(cls) -> Size:
        """A rehearsal."""
        return cls(4, Plan(steps=1, batch=1), Plan(steps=3, batch=2), 2)


def listed(arms: Sequence[str] = ARMS) -> list[Job]:
    """All jobs: a first seed of every arm, then the others; rules have no seed.

    Raises GraftError for an unknown arm.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise GraftError(f"--arms {unknown[0]!r}: unknown; choose of {', '.join(ARMS)}")
    return [Job(arm, seed) for seed in SEEDS for arm in arms if arm != RULES or seed == 0]


def prepare(folder: Path, counts: dict[str, int]) -> None:
    """Compose training and test dialogues with their spans."""
    from benchmarks.maritime.slots.composed import composed
    from benchmarks.maritime.slots.spans import write

    folder.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", TRAIN), ("test", TEST)):
        write(folder / f"{split}.jsonl", composed(seed, counts[split]))
        print(f"{split}: {counts[split]} dialogues", flush=True)


class Work:
    """What the jobs of a process share."""

    def __init__(self, data: Path, base: str, out: Path, device: str, size: Size) -> None:
        self.base, self.out, self.device, self.size = base, out, device, size
        self.train = read(data / "train.jsonl", size.train)
        self.sets = {name: dialogues[: size.test] for name, dialogues in sets(data).items()}

    def run(self, job: Job) -> dict[str, Any]:
        """Train, or take what an earlier run trained, and extract; what is known of it afterwards."""
        begun = time.perf_counter()
        found: dict[str, list[list[Span]]] = {}
        known: dict[str, Any] = {}
        if job.arm == RULES:
            from benchmarks.maritime.slots.rules import extract

            for name, dialogues in self.sets.items():
                found[name] = [extract(d) for d in dialogues]
        else:
            extractor, known = self._trained(job)
            for name, dialogues in self.sets.items():
                found[name] = extractor.extract(dialogues)
        spans = {
            name: {d.id: [_row(s) for s in said] for d, said in zip(self.sets[name], each, strict=True)}
            for name, each in found.items()
        }  # fmt: skip
        return {**known, "seconds": round(time.perf_counter() - begun, 2), "found": spans}

    def _trained(self, job: Job) -> tuple[Any, dict[str, Any]]:
        folder, note = self.out / "trained" / job.name, self.out / "trained" / f"{job.name}.json"
        if note.is_file():
            return self._read(job, folder), json.loads(note.read_text())
        made = self._fit(job)
        made.save(folder)
        known = {
            "trained": made.trained, "training seconds": round(made.seconds, 2),
            "losses": made.losses, "device": self._card(job),
        }  # fmt: skip
        write_atomic(note, json.dumps(known))
        return made, known

    def _fit(self, job: Job) -> Any:
        def say(line: str) -> None:
            print(f"{job.name}: {line}", flush=True)

        if job.arm == SMALL:
            from benchmarks.maritime.slots import small

            return small.fit(self.train, self.size.small, job.seed, say)
        from benchmarks.maritime.slots import grafted

        return grafted.fit(
            self._load, self.train, self.size.model, job.seed, device=self.device,
            times=_times(job), method=job.arm != HEAD, say=say,
        )  # fmt: skip

    def _read(self, job: Job, folder: Path) -> Any:
        if job.arm == SMALL:
            from benchmarks.maritime.slots.small import Small

            return Small.load(folder)
        from benchmarks.maritime.slots import grafted

        return grafted.read(self._load, folder, self.device, _times(job))

    def _load(self) -> tuple[Any, Any]:
        from graftwork_llm import bases

        return bases.load(self.base, "float32" if self.device == "cpu" else "bfloat16")

    def _card(self, job: Job) -> str:
        if job.arm == SMALL or self.device == "cpu":
            return "cpu"
        import torch

        return torch.cuda.get_device_name()

    def forget_partial(self, jobs: Sequence[Job]) -> None:
        """Remove results that lack a set which is there now; what was trained stays, and is not trained again."""
        for job in jobs:
            file = self.out / f"{job.name}.json"
            if file.is_file() and set(self.sets) - set(json.loads(file.read_text())["found"]):
                file.unlink()


def _times(job: Job) -> int:
    return 1 if job.arm == ONCE else 2


def _row(span: Span) -> list[Any]:
    return [span.slot, span.turn, span.start, span.end, round(span.score, 4)]


def spans_in(result: dict[str, Any], name: str) -> dict[str, list[Span]]:
    """A result's spans of a set, by dialogue."""
    return {i: [Span(*row) for row in rows] for i, rows in result["found"][name].items()}
