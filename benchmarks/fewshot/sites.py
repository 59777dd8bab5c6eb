"""The sites in memory: volumes read once and kept, episodes, and what a job trains and tests on.

A CT is cut to the body's box (`openkbp.body_box`) before it is placed: outside it the set's images hold nothing. Masks
are scored on the file's grid inside that box. Labels are placed with all the site's classes and then cut down to
the organs that a job asks for, so that one volume in memory serves all jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from graftwork.errors import GraftError
from graftwork_medseg.domain import openkbp
from graftwork_medseg.domain.plans import PLANS
from graftwork_medseg.fewshot.audit import AuditScore
from graftwork_medseg.fewshot.protocol import TASKS, Episode, Task
from graftwork_medseg.fewshot.shots import by_hash
from graftwork_medseg.images.contract import Contract
from graftwork_medseg.images.folder import read_case, read_dataset
from graftwork_medseg.images.nifti import place_label
from graftwork_medseg.images.organs import Organs
from graftwork_medseg.images.prepare import prepare
from graftwork_medseg.images.volume import Volume

FOLDERS = {"hippocampus": "hippocampus", "openkbp-site": "openkbp"}  # inside --data
TOLERANCE_MM = {"hippocampus": 1.0, "openkbp-site": 4.0}
POOL_CASES = 20  # that score a rate, at most
GAP_CASES = 10  # test cases on which the audit's own score is measured


@dataclass(frozen=True)
class Tiny:
    """How a rehearsal is cut down: test cases and patch size; None and 0 leave both as they are."""

    cases: int | None = None
    patch: int = 0


class Site:
    """A task's cases; each is read when it is first asked for and then kept.

    Args:
        task: name of the task.
        data: folder that holds the prepared sets, see `FOLDERS`.
        tiny: of a rehearsal.

    Raises GraftError when the set is not there.
    """

    def __init__(self, task: str, data: str | Path, tiny: Tiny | None = None) -> None:
        self.task: Task = TASKS[task]
        self.plan = PLANS[self.task.base]
        self.folder, self.tiny = Path(data) / FOLDERS[task], tiny or Tiny()
        self.dataset = read_dataset(self.folder)
        self.files = {case.name: case for case in self.dataset.training}
        self.contract: Contract = self.plan.contract()
        self.tolerance_mm = TOLERANCE_MM[task]
        # A crop of 19 cm holds larynx and oesophagus with what is around them, at a third of the base's time.
        patch = (64, 64, 64) if task == "openkbp-site" else self.plan.patch
        self.patch = (self.tiny.patch,) * 3 if self.tiny.patch else patch
        self.window = (self.tiny.patch,) * 3 if self.tiny.patch else self.plan.patch
        self._volumes: dict[str, Volume] = {}
        self._audits: dict[tuple[str, tuple[str, ...]], AuditScore] = {}

    def episode(self, k: int, fold: int, organs: tuple[str, ...]) -> Episode:
        """The episode of a job; fewer test cases in a rehearsal."""
        found = self.task.episode(self.folder, k, fold, organs)
        return replace(found, test=found.test[: self.tiny.cases])

    def pool(self, episode: Episode) -> tuple[str, ...]:
        """Cases that score a rate: of the pool, with the organs, neither shots nor test."""
        cases = self.task.cases(self.folder)
        used = {*episode.train, episode.audit}
        free = [
            n
            for n in self.task.split(self.folder)["pool"]
            if set(episode.organs) <= cases[n] and n not in used
        ]
        return tuple(by_hash(free, "rates")[:POOL_CASES][: self.tiny.cases])

    def volume(self, name: str, organs: Organs | None = None) -> Volume:
        """A case, its labels those of `organs`; the arrays of the image are shared."""
        if name not in self._volumes:
            self._volumes[name] = self._read(name)
        found = self._volumes[name]
        assert found.label is not None and found.truth is not None
        if organs is None:
            return found
        label = torch.from_numpy(organs.remap(found.label.numpy()))
        truth = organs.remap(found.truth)
        return Volume(found.name, found.image, label, truth, found.placement)

    def audit(self, name: str, organs: Organs) -> AuditScore:
        """The audit score of a case, kept."""
        key = (name, organs.classes)
        if key not in self._audits:
            volume = self.volume(name, organs)
            self._audits[key] = AuditScore(volume, organs, self.patch, batch=6)
        return self._audits[key]

    def _read(self, name: str) -> Volume:
        if name not in self.files:
            raise GraftError(f"{self.folder}: dataset.json lists no case {name!r}")
        classes = self.dataset.classes
        channels, truth, header = read_case(
            self.files[name], len(classes), spacing=self.contract.spacing, allow_empty=True
        )
        assert truth is not None
        affine = np.array(header.affine, dtype=np.float64)
        if self.plan.data == "openkbp":
            box = openkbp.body_box(channels[0])
            channels, truth = [c[box] for c in channels], truth[box]
            affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
        image, placement, observed = prepare(channels, affine, self.contract, name)
        label = place_label(truth, placement, image.shape[1:], len(classes))
        return Volume(name, image, torch.from_numpy(label), truth, placement, None, observed)
