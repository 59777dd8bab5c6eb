"""The demo: a base that knows two tissues on one scanner learns a third tissue on another scanner.

Five simulated volumes to train on, eight others to test on, three seeds. Rows: the base, the last
convolution alone, the graft, and full fine-tuning (from the record that `experiments` wrote on a GPU).
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork_runs import Record, validate_record

from ..files import CHECKPOINT
from ..images.contract import APP
from ..networks.network import BASE_HEAD, load_pretrained
from ..prediction import metrics
from ..progress import Progress
from . import sim, task

FULL_RECORD = Path(__file__).parent.parent / "records" / "full-fine-tuning.json"
# Work in graft steps, as measured: it only steers the "time left".
_HEAD_STEP, _PASS, _SCORE, _SCAN = 0.3, 3.7, 1.4, 1.0

Scores = dict[int, list[dict[str, metrics.Score]]]  # seed -> case -> class


@dataclass(frozen=True)
class DemoPlan:
    """How much of the demo to run; the defaults are the real one, a dry run asks for less."""

    seeds: tuple[int, ...] = task.SEEDS
    steps: int = task.STEPS
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
    """Train and measure everything; the first seed's graft is saved to the folder `adapter`.

    Each training and each test volume is one job on one core: two jobs on two cores lose nothing to
    waiting for one another, and the figures do not depend on how many cores there are.
    """
    begun = time.perf_counter()
    groups = task.subjects()
    train_ids, test_ids = groups["train"][: plan.train], groups["test"][: plan.test]
    progress.say(
        f"task: CSF and the contrast of site B, from {len(train_ids)} simulated volumes; "
        f"tested on {len(test_ids)} others (split by hash)"
    )
    sim.anatomy()  # read once, before the jobs ask for it
    with _one_core_each() as pool:
        images, labels = _scans(train_ids, pool, progress)
        test_images, truth = _scans(test_ids, pool, progress)
        base = load_pretrained().model.to(memory_format=torch.channels_last_3d)
        out = Outcome(plan, [f"subject {i}" for i in test_ids], test_images, truth)
        out.parameters = sum(p.numel() for p in base.parameters())

        def train(arm: str, seed: int, model: nn.Module, trained: task.Groups) -> None:
            out.trained[arm] = sum(p.numel() for ps, _ in trained for p in ps)
            tick = _ticker(progress, arm, seed, plan)
            out.losses[f"{arm}, seed {seed}"] = task.fit(
                model, trained, images, labels, seed=seed, steps=plan.steps, tick=tick
            )

        grafts, heads, jobs = [], [], []
        for seed in plan.seeds:  # the longest jobs first
            model = copy.deepcopy(base)
            graft, trained = task.graft_arm(model, task.PLAN, seed, task.HEAD_RATE)
            grafts.append(graft)
            jobs.append(pool.submit(train, "graft", seed, model, trained))
        for seed in plan.seeds:
            model = copy.deepcopy(base)
            trained = task.head_arm(model, seed, task.HEAD_ONLY_RATE)
            heads.append(model.get_submodule(BASE_HEAD))
            jobs.append(pool.submit(train, "head only", seed, model, trained))
        _wait(jobs)
        gw.save(grafts[0], adapter, data_card=_card(train_ids), app=_contract())
        out.file_bytes = sum(f.stat().st_size for f in adapter.rglob("*") if f.is_file())

        # One pass through the frozen trunk serves the base's own head and all heads trained on it.
        base_masks, *head_masks = _masks_of_heads(base, heads, test_images, pool, progress)
        graft_masks = [_predict(g.model, test_images, pool, progress, "graft") for g in grafts]
        for arm, masks in (
            ("base", [base_masks]),
            ("head only", head_masks),
            ("graft", graft_masks),
        ):
            out.masks[arm] = masks[0]
            out.scores[arm] = _score(out, masks, pool, progress)
        out.proof = _prove(grafts[0], base, base_masks, test_images, pool, progress)
    progress.clear()
    out.seconds = time.perf_counter() - begun
    return out


def _contract() -> dict[str, Any]:
    """The base's contract with the graft's classes, for its passport."""
    known = load_pretrained().contract
    assert known is not None
    contract = replace(known, classes=sim.CLASSES, ranges=None)
    return {APP: {"contract": contract.to_json()}}


def _card(subjects: list[int]) -> dict[str, Any]:
    """What the graft was trained on, for its passport."""
    return {
        "card": "mni152-sim",
        "data": f"simulated site B, subjects {', '.join(map(str, subjects))}",
        "classes": list(sim.CLASSES),
    }


def work(plan: DemoPlan) -> float:
    """Units of work in `plan`, for the progress line."""
    seeds, passes = len(plan.seeds), 2 + len(plan.seeds)
    return (
        seeds * plan.steps * (1 + _HEAD_STEP)
        + _PASS * plan.test * passes
        + _SCORE * plan.test * (1 + 2 * seeds)
        + _SCAN * (plan.train + plan.test)
    )


def _prove(
    graft: gw.Graft,
    base: nn.Module,
    base_masks: Tensor,
    images: Tensor,
    pool: Executor,
    progress: Progress,
) -> dict[str, Any]:
    """Check the promises on the trained graft: off = base, merged = forward, unmerge restores."""
    model = graft.model
    with graft.off():
        off = _predict(model, images, pool, progress, "base, by switching the graft off")
    stored, live = base.state_dict(), model.state_dict()
    untouched = stored.keys() == live.keys() and all(
        torch.equal(stored[k], live[k]) for k in stored
    )
    patch = images[:2, :, : task.ROI[0], : task.ROI[1], : task.ROI[2]].contiguous(
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


@contextmanager
def _one_core_each() -> Iterator[Executor]:
    """As many workers as torch has threads, with one thread each."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        # After Ctrl-C or an error nobody waits for what has not begun.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def _wait(jobs: list[Future[None]]) -> None:
    for job in jobs:
        job.result()


def _scans(subjects: list[int], pool: Executor, progress: Progress) -> tuple[Tensor, Tensor]:
    def one(subject: int) -> tuple[Tensor, Tensor]:
        scan = sim.simulate("b", subject)
        progress.advance(_SCAN, "simulating volumes")
        return sim.normalise(scan.image)[None], scan.label

    images, labels = zip(*pool.map(one, subjects), strict=True)
    return torch.stack(images), torch.stack(labels)


def _ticker(
    progress: Progress, arm: str, seed: int, plan: DemoPlan
) -> Callable[[int, float], None]:
    units = _HEAD_STEP if arm == "head only" else 1.0

    def tick(step: int, loss: float) -> None:
        progress.advance(units, f"{arm}, seed {seed}: step {step}/{plan.steps}, loss {loss:.2f}")

    return tick


def _predict(
    model: nn.Module, images: Tensor, pool: Executor, progress: Progress, what: str
) -> Tensor:
    def one(image: Tensor) -> Tensor:
        mask = task.predict(model, image[None])[0]
        progress.advance(_PASS, f"{what}: masks of the test volumes")
        return mask

    return torch.stack(list(pool.map(one, images)))


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
    base: nn.Module, heads: list[nn.Module], images: Tensor, pool: Executor, progress: Progress
) -> list[Tensor]:
    both = _ManyHeads(base, heads).eval()
    sizes = [head.out_channels for head in both.heads]

    def one(image: Tensor) -> list[Tensor]:
        scores = task.scores_of(both, image)
        progress.advance(_PASS, "base and head only: masks of the test volumes")
        return [part.argmax(0).to(torch.uint8) for part in scores.split(sizes)]

    return [torch.stack(masks) for masks in zip(*pool.map(one, images), strict=True)]


def _score(out: Outcome, masks: list[Tensor], pool: Executor, progress: Progress) -> Scores:
    def one(pair: tuple[Tensor, Tensor]) -> dict[str, metrics.Score]:
        mask, truth = pair
        found = metrics.score_case(
            mask.numpy(), truth.numpy(), sim.CLASSES, [sim.SPACING] * len(sim.SHAPE)
        )
        progress.advance(_SCORE, "distances between surfaces")
        return found

    return {
        seed: list(pool.map(one, zip(of_seed, out.truth, strict=True)))
        for seed, of_seed in zip(out.plan.seeds, masks, strict=False)
    }
