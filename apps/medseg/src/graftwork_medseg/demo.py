"""The demo: a base that knows two tissues on one scanner learns a third tissue on another scanner.

Five simulated volumes to train on, eight others to test on, three seeds. Rows: the base, the last
convolution alone, the graft, and full fine-tuning (from the record that `experiments` wrote on a GPU).
"""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork_runs import Record, validate_record

from . import fewshot, metrics, sim
from .network import BASE_HEAD, CHECKPOINT, load_pretrained
from .progress import Progress

FULL_RECORD = Path(__file__).parent / "records" / "full-fine-tuning.json"
# Work in graft steps, measured on two cores: it only steers the "time left".
_HEAD_STEP, _PASS, _SCORE, _SCAN = 0.35, 1.8, 0.25, 0.8

Scores = dict[int, list[dict[str, metrics.Score]]]  # seed -> case -> class


@dataclass(frozen=True)
class DemoPlan:
    """How much of the demo to run; the defaults are the real one, a dry run asks for less."""

    seeds: tuple[int, ...] = fewshot.SEEDS
    steps: int = fewshot.STEPS
    train: int = 5
    test: int = 8


@dataclass
class Outcome:
    """What the demo found; masks are those of the first seed, by case."""

    plan: DemoPlan
    names: list[str]
    images: Tensor
    truth: Tensor
    scores: dict[str, Scores] = field(default_factory=dict)  # by arm: base, head only, graft
    masks: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    file_bytes: int = 0
    proof: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def run(plan: DemoPlan, adapter: Path, progress: Progress) -> Outcome:
    """Train and measure everything; the first seed's graft is saved to the folder `adapter`."""
    begun = time.perf_counter()
    groups = fewshot.subjects()
    train_ids, test_ids = groups["train"][: plan.train], groups["test"][: plan.test]
    progress.say(
        f"task: CSF and the contrast of site B, from {len(train_ids)} simulated volumes; "
        f"tested on {len(test_ids)} others (split by hash)"
    )
    images, labels = _scans(train_ids, progress)
    test_images, truth = _scans(test_ids, progress)
    pretrained = load_pretrained()
    base = pretrained.model.to(memory_format=torch.channels_last_3d)
    out = Outcome(plan, [f"subject {i}" for i in test_ids], test_images, truth)
    out.parameters = sum(p.numel() for p in base.parameters())

    heads = []
    for seed in plan.seeds:
        model = copy.deepcopy(base)
        arm = fewshot.head_arm(model, seed, fewshot.HEAD_ONLY_RATE)
        out.trained["head only"] = _count(arm)
        tick = _ticker(progress, "head only", seed, plan, _HEAD_STEP)
        out.losses[f"head only, seed {seed}"] = fewshot.fit(
            model, arm, images, labels, seed=seed, steps=plan.steps, tick=tick
        )
        heads.append(model.get_submodule(BASE_HEAD))
    # One pass through the frozen trunk serves the base's own head and all heads trained on it.
    base_masks, *head_masks = _masks_of_heads(base, heads, test_images, progress)
    out.masks["base"], out.masks["head only"] = base_masks, head_masks[0]
    _score(out, "base", [base_masks], progress)
    _score(out, "head only", head_masks, progress)

    graft_masks = []
    for seed in plan.seeds:
        model = copy.deepcopy(base)
        graft, arm = fewshot.graft_arm(model, fewshot.PLAN, seed, fewshot.HEAD_RATE)
        out.trained["graft"] = _count(arm)
        tick = _ticker(progress, "graft", seed, plan, 1.0)
        out.losses[f"graft, seed {seed}"] = fewshot.fit(
            model, arm, images, labels, seed=seed, steps=plan.steps, tick=tick
        )
        graft_masks.append(_predict(model, test_images, progress, f"graft, seed {seed}"))
        if seed == plan.seeds[0]:
            gw.save(graft, adapter)
            out.file_bytes = sum(f.stat().st_size for f in adapter.rglob("*") if f.is_file())
            out.proof = prove(graft, base, base_masks, test_images, progress)
    out.masks["graft"] = graft_masks[0]
    _score(out, "graft", graft_masks, progress)
    progress.clear()
    out.seconds = time.perf_counter() - begun
    return out


def work(plan: DemoPlan) -> float:
    """Units of work in `plan`, for the progress line."""
    seeds, passes = len(plan.seeds), 3 + len(plan.seeds)
    return (
        seeds * plan.steps * (1 + _HEAD_STEP)
        + _PASS * plan.test * passes
        + _SCORE * plan.test * (1 + 2 * seeds)
        + _SCAN * (plan.train + plan.test)
    )


def prove(
    graft: gw.Graft, base: nn.Module, base_masks: Tensor, images: Tensor, progress: Progress
) -> dict[str, Any]:
    """Check the promises on the trained graft: off = base, merged = forward, unmerge restores."""
    model = graft.model
    with graft.off():
        off = _predict(model, images, progress, "base, by switching the graft off")
    stored, live = base.state_dict(), model.state_dict()
    untouched = stored.keys() == live.keys() and all(
        torch.equal(stored[k], live[k]) for k in stored
    )
    patch = images[:2, :, : fewshot.ROI[0], : fewshot.ROI[1], : fewshot.ROI[2]].contiguous(
        memory_format=torch.channels_last_3d
    )
    with torch.inference_mode():
        forward = model(patch)
        graft.merge(keep="cpu")
        try:
            merged = model(patch)
        finally:
            graft.unmerge()
    after = model.state_dict()
    return {
        "off_masks_equal": torch.equal(off, base_masks),
        "base_untouched": untouched,
        "merged_error": float((merged - forward).abs().max() / forward.abs().max()),
        "unmerge_restores": all(torch.equal(stored[k], after[k]) for k in stored),
    }


def share_of_gap(out: Outcome, full: Scores, draws: int = 2000) -> tuple[float, float, float]:
    """(graft - head only) / (full - head only) in mean Dice, with its 95 % bootstrap interval.

    Cases are drawn with replacement, the same cases for the three arms; seeds are averaged before.
    """

    def per_case(scores: Scores) -> Any:
        return np.mean([[metrics.case_dice(c) for c in cases] for cases in scores.values()], axis=0)

    head, graft, whole = (per_case(s) for s in (out.scores["head only"], out.scores["graft"], full))
    whole = whole[: len(head)]
    draw = np.random.default_rng(0).integers(len(head), size=(draws, len(head)))
    gap = (whole - head)[draw].mean(1)
    shares = (graft - head)[draw].mean(1) / np.where(np.abs(gap) < 1e-9, np.nan, gap)
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return float((graft - head).mean() / (whole - head).mean()), float(low), float(high)


def full_fine_tuning() -> tuple[Record, Scores]:
    """The shipped record of full fine-tuning and its scores."""
    record = validate_record(FULL_RECORD)
    scores = {
        int(seed): [{k: metrics.Score(**s) for k, s in case.items()} for case in cases]
        for seed, cases in record.details["scores"].items()
    }
    return record, scores


def base_sha256() -> str:
    """SHA-256 of the shipped base checkpoint."""
    return hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()


def _scans(subjects: list[int], progress: Progress) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for subject in subjects:
        scan = sim.simulate("b", subject)
        images.append(sim.normalise(scan.image)[None])
        labels.append(scan.label)
        progress.advance(_SCAN, "simulating volumes")
    return torch.stack(images), torch.stack(labels)


def _count(groups: fewshot.Groups) -> int:
    return sum(p.numel() for parameters, _ in groups for p in parameters)


def _ticker(progress: Progress, arm: str, seed: int, plan: DemoPlan, units: float) -> Any:
    def tick(step: int, loss: float) -> None:
        progress.advance(units, f"{arm}, seed {seed}: step {step}/{plan.steps}, loss {loss:.2f}")

    return tick


def _predict(model: nn.Module, images: Tensor, progress: Progress, what: str) -> Tensor:
    masks = []
    for i, image in enumerate(images):
        masks.append(fewshot.predict(model, image[None])[0])
        progress.advance(_PASS, f"{what}: test volume {i + 1}/{len(images)}")
    return torch.stack(masks)


class _ManyHeads(nn.Module):
    """The frozen trunk with several last convolutions; their outputs side by side."""

    def __init__(self, base: nn.Module, heads: list[nn.Module]) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(base)
        own = self.trunk.get_submodule(BASE_HEAD)
        parent, _, leaf = BASE_HEAD.rpartition(".")
        setattr(self.trunk.get_submodule(parent), leaf, nn.Identity())
        self.heads = nn.ModuleList([own, *heads])

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        return torch.cat([head(features) for head in self.heads], 1)


def _masks_of_heads(
    base: nn.Module, heads: list[nn.Module], images: Tensor, progress: Progress
) -> list[Tensor]:
    both = _ManyHeads(base, heads).eval()
    sizes = [head.out_channels for head in both.heads]
    masks: list[list[Tensor]] = [[] for _ in sizes]
    for i, image in enumerate(images):
        scores = fewshot.scores_of(both, image[None])[0]
        for kept, part in zip(masks, scores.split(sizes), strict=True):
            kept.append(part.argmax(0).to(torch.uint8))
        progress.advance(_PASS, f"base and head only: test volume {i + 1}/{len(images)}")
    return [torch.stack(m) for m in masks]


def _score(out: Outcome, arm: str, masks: list[Tensor], progress: Progress) -> None:
    scores: Scores = {}
    for seed, of_seed in zip(out.plan.seeds, masks, strict=False):
        scores[seed] = []
        for mask, truth in zip(of_seed, out.truth, strict=True):
            scores[seed].append(
                metrics.score_case(mask.numpy(), truth.numpy(), sim.CLASSES, [sim.SPACING] * 3)
            )
            progress.advance(_SCORE, f"{arm}: distances")
    out.scores[arm] = scores
