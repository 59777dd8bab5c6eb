"""One job, from its entry in the list to its result: adapt, train, answer.

A `Bench` keeps what jobs share: the base, the tokens of all examples, the device. A job works on a copy of the base,
since peft's PiSSA writes to it.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.joblist import pool
from benchmarks.trees import arms, decode, training
from benchmarks.trees.arms import NONE
from benchmarks.trees.episodes import Episode, Episodes, read
from benchmarks.trees.jobs import Job, Results, best
from benchmarks.trees.text import encode
from benchmarks.trees.training import Plan
from graftwork.errors import GraftError, NotFiniteError
from graftwork_llm import smollm2
from graftwork_llm.batches import Example
from graftwork_runs import environment

BULKY = ("answers", "losses")
ROWS = {"cuda": 224, "cpu": 4}  # prompts that are answered at once


@dataclass(frozen=True)
class Setting:
    """How jobs are run. `tiny` is a rehearsal: two steps of two examples, three prompts of each part, short answers."""

    model: str
    episodes: str
    out: str
    device: str = "cpu"
    steps: int = 240
    tiny: bool = False

    @property
    def plan(self) -> Plan:
        """Length and size of a training."""
        return Plan(2, 2, 2) if self.tiny else Plan(self.steps)

    def read(self) -> Episodes:
        """The episodes, few of them in a rehearsal."""
        return read(self.episodes, 3 if self.tiny else None)


class Bench:
    """Runs jobs and keeps what they share."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.device = setting, setting.device
        self.results = Results(setting.out)
        self.episodes = setting.read()
        self.base, self.tokenizer = smollm2.load(Path(setting.model), setting.device)
        self.where = environment(setting.device)

    @cached_property
    def train(self) -> list[Example]:
        """The training part's tokens."""
        return self.known("train")

    @cached_property
    def choice(self) -> list[Example]:
        """The tokens of the laboratories that choose the rates."""
        return self.known("choice")

    def known(self, part: str) -> list[Example]:
        """A part's prompts with their answers as tokens."""
        found = self.episodes.parts[part]
        return [encode(self.tokenizer, self.episodes.prompt(e), str(e.tree)) for e in found]

    @property
    def most(self) -> int:
        """Tokens of an answer at the most: as many as training's longest has."""
        return 8 if self.setting.tiny else max(len(e.answer) for e in self.train)

    def run(self, job: Job) -> dict[str, Any]:
        """Do a job and write its file; the result. What a failed job said is kept beside it."""
        begun = time.perf_counter()
        with self.results.noting(job):
            result = self.measure(job)
        result["wall"] = round(time.perf_counter() - begun, 2)
        keep = ("commit", "date", "device", "cores", "memory_bytes", "versions")
        result["where"] = {key: self.where[key] for key in keep if key in self.where}
        self.results.write(job, result)
        return result

    def measure(self, job: Job) -> dict[str, Any]:
        """Train an arm and let it answer."""
        plan, base, pad = self.setting.plan, copy.deepcopy(self.base), self.tokenizer.pad_token_id
        result: dict[str, Any] = {
            "status": "done", "parameters": sum(p.numel() for p in base.parameters()), "rate": self.rate(job),
            "trained": 0, "adapter_bytes": 0, "losses": [], "plan": [plan.steps, plan.batch],
            "test": test_hash(self.episodes),
        }  # fmt: skip
        seconds: dict[str, float] = {}
        adapted: Any = base
        try:
            if job.library != NONE:
                begun = time.perf_counter()
                ready = arms.adapt(base, job.library, job.arm, result["rate"], job.seed, plan.batch)
                seconds["adapt"] = time.perf_counter() - begun
                trace = training.fit(
                    ready.model, ready.optimizer, self.train, plan,
                    seed=job.seed, pad=pad, device=self.device, gast=ready.gast,
                )  # fmt: skip
                seconds["train"], adapted = trace.seconds, ready.model
                result |= {"trained": ready.trained, "losses": trace.losses}
                result["adapter_bytes"] = ready.file_size()
            begun = time.perf_counter()
            exact, loss = decode.forced(adapted, self.choice, pad=pad, rows=32, device=self.device)
            if not math.isfinite(loss):
                raise NotFiniteError(f"the loss on the laboratories of the choice is {loss}")
        except NotFiniteError as error:
            return {"status": "diverged", "rate": result["rate"], "why": str(error)}
        answers = self.answers(adapted, self.episodes.parts["test"], ROWS[self.device])
        seconds["answer"] = time.perf_counter() - begun
        return {
            **result,
            "choice": {"exact match": exact, "loss": round(loss, 5)},
            "seconds": {k: round(v, 3) for k, v in seconds.items()},
            "answers": answers,
        }

    def rate(self, job: Job) -> float:
        """A job's own rate, or for a further seed the best of those that the first one tried.

        Raises GraftError when there is none.
        """
        if job.seed == 0:
            return job.rate
        found = best(self.results, job.library, job.arm)
        if found is None:
            raise GraftError(f"{job.name}: no rate of the first seed converged")
        return float(found["rate"])

    def answers(self, adapted: Any, found: Sequence[Episode], rows: int) -> list[str]:
        """The answer to each example; equal prompts are answered once."""
        prompts = [self.episodes.prompt(e) for e in found]
        distinct = list(dict.fromkeys(prompts))
        said = decode.answers(
            adapted, self.tokenizer, [encode(self.tokenizer, p) for p in distinct],
            most=self.most, rows=rows, device=self.device,
        )  # fmt: skip
        known = dict(zip(distinct, said, strict=True))
        return [known[p] for p in prompts]


def test_hash(episodes: Episodes) -> str:
    """SHA-256 of the test's prompts and trees: answers belong to these alone."""
    text = "\n".join(f"{episodes.prompt(e)}\n{e.tree}" for e in episodes.parts["test"])
    return hashlib.sha256(text.encode()).hexdigest()


def summary(result: dict[str, Any]) -> str:
    """A result in a few words."""
    if result["status"] != "done":
        return str(result["status"])
    return f"choice {100 * result['choice']['exact match']:.1f} % exact"


def start(setting: Setting, number: int) -> pool.Worker[Job]:
    """Start worker `number`."""
    return pool.start_process(_serve, setting, number)


def _serve(line: Connection, setting: Setting, number: int) -> None:
    pool.take_seat(number, setting.device)
    pool.prepare_process(setting.device)
    pool.answer(line, Bench(setting).run, BULKY)
