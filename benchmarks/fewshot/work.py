"""One job, from its entry in the list to its result: train, audit, test.

A `Bench` keeps what jobs share: sites in memory, bases, the device. What a job finds is a plain dictionary.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from graftwork.allocation import Search, Unit
from graftwork_medseg.fewshot import baselines
from graftwork_medseg.fewshot.protocol import Episode
from graftwork_medseg.images.organs import Organs
from graftwork_medseg.module import Segmenter
from graftwork_medseg.prediction import maps, metrics
from graftwork_medseg.prediction.window import Windows
from graftwork_runs import environment

from . import arms
from .arms import DoesNotFit, Ready
from .jobs import Job, Results
from .sites import GAP_CASES, Site, Tiny
from .training import Patches, Trace, fit, optimizer_of

STEPS = 200  # of every arm's training
JUDGE_STEPS = 100  # of each training behind a verdict
OVERLAP = 0.25


@dataclass(frozen=True)
class Setting:
    """How jobs are run. `tiny` is a rehearsal: two steps, two test cases, small patches."""

    data: str
    out: str
    device: str = "cpu"
    steps: int = STEPS
    tiny: bool = False

    @property
    def training_steps(self) -> int:
        """Steps of a training."""
        return 2 if self.tiny else self.steps

    @property
    def cut(self) -> Tiny:
        """What a rehearsal leaves out."""
        return Tiny(2, 32) if self.tiny else Tiny()


@dataclass
class Found:
    """What one training ended in."""

    ready: Ready
    trace: Trace
    facts: dict[str, Any] = field(default_factory=dict)


class Bench:
    """Runs jobs and keeps what they share."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.device = setting, setting.device
        self.results = Results(setting.out)
        self.sites: dict[str, Site] = {}
        self.bases: dict[str, Segmenter] = {}
        self.where = environment(setting.device)

    def run(self, job: Job) -> dict[str, Any]:
        """Do a job and write its file; the result."""
        begun = time.perf_counter()
        from .verdicts import verdict  # it runs trainings of ours

        try:
            result = verdict(self, job) if job.kind == "verdict" else self.measure(job)
        except DoesNotFit as refusal:
            result = {"status": "does not fit", "why": str(refusal)}
        result["wall"] = round(time.perf_counter() - begun, 2)
        keep = ("commit", "date", "device", "cores", "memory_bytes", "versions")
        result["where"] = {key: self.where[key] for key in keep}
        self.results.write(job, result)
        return result

    def site(self, task: str) -> Site:
        """A task's cases."""
        if task not in self.sites:
            self.sites[task] = Site(task, self.setting.data, self.setting.cut)
        return self.sites[task]

    def base(self, task: str) -> Segmenter:
        """A task's base, untouched."""
        if task not in self.bases:
            self.bases[task] = Segmenter(base=self.site(task).task.base).eval()
        return self.bases[task]

    def organs(self, task: str, asked: Sequence[str]) -> Organs:
        """How the site's labels map onto the base's outputs."""
        return Organs.match(
            self.base(task).base_classes, self.site(task).dataset.classes, asked, where=task
        )

    def measure(self, job: Job) -> dict[str, Any]:
        """Train an arm and score it on the test cases, or on the pool's for a rate."""
        site = self.site(job.task)
        episode = site.episode(job.k, job.fold, job.organs)
        organs = self.organs(job.task, job.organs)
        if job.arm == "scratch":  # it knows no other organs, so it has no outputs for them
            names = (organs.classes[0], *organs.asked)
            organs = Organs.match(names, site.dataset.classes, job.organs)
        found = self.train(job, organs, episode.train, episode)
        cases = site.pool(episode) if job.kind == "rate" else episode.test
        begun = time.perf_counter()
        scores = self.scores(found.ready.network, job.task, organs, cases)
        tested = time.perf_counter() - begun
        audits = [site.audit(episode.audit, organs)(found.ready.network)]
        gap = [site.audit(name, organs)(found.ready.network) for name in cases[:GAP_CASES]]
        return {
            "status": "done",
            "trained": found.ready.trained,
            "parameters": sum(p.numel() for p in self.base(job.task).network.parameters()),
            "cap": arms.cap_of(self.base(job.task).network, job.budget),
            "dice": float(np.mean([metrics.case_dice(case) for case in scores.values()])),
            "soft": {"audit": audits[0], "test": float(np.mean(gap)), "n": len(gap)},
            "steps": found.trace.steps,
            "seconds": {
                "train": round(found.trace.seconds, 3),
                "test": round(tested, 3),
                **found.facts.pop("seconds", {}),
            },
            "losses": found.trace.losses,
            "facts": {**found.ready.facts, **found.facts},
            "scores": {name: metrics.to_json(case) for name, case in scores.items()},
        }

    def train(
        self, job: Job, organs: Organs, cases: Sequence[str], episode: Episode | None = None,
        steps: int | None = None,
    ) -> Found:  # fmt: skip
        """Train `job`'s arm on `cases`; the search audits on the episode's audit case."""
        seed = 1000 * job.fold + job.draw
        patches = self.patches(job, organs, cases)
        steps = steps or self.setting.training_steps
        if job.arm == "scratch":
            return self._scratch(job, organs, patches, seed)
        new = self.base(job.task).new_rows(organs.classes)
        network = self.copy_of(job.task)
        cap, facts = arms.cap_of(network, job.budget), {}
        if job.arm == "sea-peft":
            assert cap is not None and episode is not None
            units, facts = self._search(job, organs, patches, episode, cap, new, seed)
            ready = arms.with_units(network, units, new, seed)
        else:
            ready = arms.prepare(job.arm, network, new=new, cap=cap, seed=seed, size=(16, 16, 16))
        groups = [(ready.body, job.rate), (ready.head, job.head_rate)]
        optimizer = optimizer_of(groups, self.device)
        trace = fit(ready.network, patches, optimizer, self.device, steps=steps, known=organs.known)
        return Found(ready, trace, facts)

    def patches(self, job: Job, organs: Organs, cases: Sequence[str]) -> Patches:
        """The training patches of some cases: the same ones for every arm of a fold."""
        site = self.site(job.task)
        volumes = [site.volume(name, organs) for name in cases]
        return Patches(volumes, organs, site.patch, job.fold, self.device)

    def copy_of(self, task: str) -> nn.Module:
        """A copy of a task's base on the device."""
        return copy.deepcopy(self.base(task).network).to(self.device)

    def _scratch(self, job: Job, organs: Organs, patches: Patches, seed: int) -> Found:
        before = job.waits_for
        assert before is not None
        seconds = self.results.read(before)["seconds"]["train"]
        torch.manual_seed(seed)
        network = arms.unet(len(organs.classes), patches.size, seed).to(self.device)
        ready = Ready(network, list(network.parameters()), [])
        optimizer = optimizer_of([(ready.body, job.rate)], self.device)
        trace = fit(network, patches, optimizer, self.device, seconds=seconds)
        return Found(ready, trace, {"allowed": seconds, "outputs": len(organs.classes)})

    def _search(
        self, job: Job, organs: Organs, patches: Patches, episode: Episode, cap: int, new: int,
        seed: int,
    ) -> tuple[list[Unit], dict[str, Any]]:  # fmt: skip
        network = self.copy_of(job.task)
        units = arms.units_of(network)
        head = baselines.apply("head", network, new=new, seed=seed).graft
        assert head is not None
        budget = cap - arms.head_count(self.base(job.task).network, new)
        if budget < min(u.cost for u in units):
            raise DoesNotFit(f"{cap} parameters hold the head and no unit")
        plan = arms.search_plan(self.setting.tiny)
        search = Search(
            network, units, self.site(job.task).audit(episode.audit, organs), budget=budget,
            plan=plan, beside=[head.name], seed=seed,
        )  # fmt: skip
        groups = [(list(head.parameters()), job.head_rate)]
        optimizer = optimizer_of(groups, self.device, search.groups(job.rate))
        total = plan.warm_up + plan.steps
        trace = fit(
            network, patches, optimizer, self.device, steps=total, known=organs.known, search=search
        )
        result = search.finish()
        record = search.record()
        facts = {
            "seconds": {"search": round(trace.seconds, 3), **record["seconds"]},
            "search": {
                "plan": asdict(plan),
                "steps": total,
                "units": len(units),
                "budget": budget,
                "largest": record["largest"],
                "binds": search.binds,
                "foreseen": record["foreseen"]["all"],
                "share_in_audits": record["share_in_audits"],
                "score": result.score,
                "cost": result.cost,
                "winner": result.candidates[0]["from"],
                "candidates": len(result.candidates),
                "audits": len(record["audits"]),
            },
        }
        return list(result.units), facts

    def scores(
        self, network: nn.Module, task: str, organs: Organs, cases: Sequence[str]
    ) -> dict[str, dict[str, metrics.Score]]:
        """Scores of the asked organs on each case, on the file's own grid; float32."""
        site = self.site(task)
        windows = Windows(site.window, OVERLAP)  # type: ignore[arg-type]
        network.eval()
        out = {}
        for name in cases:
            volume = site.volume(name, organs)
            mask = maps.predict(
                network, volume.image, volume.placement, windows, None, self.device
            ).mask
            assert volume.truth is not None
            out[name] = metrics.score_case(
                mask, volume.truth, organs.classes, volume.spacing, site.tolerance_mm, organs.asked
            )
        return out
