"""Train the shipped base checkpoint: two tissues, one contrast.

    python -m graftwork_medseg.demo.train_base --out runs/base --device cuda

The base sees simulated subjects of site A alone and two tissues, GM and WM; CSF is kept out (it is
labelled background). Deterministic given the seed: the subjects, their order, the flips and, on a GPU,
the kernels (deterministic algorithms are asked for; the record says whether torch granted them).
Writes mni152-sim-base.safetensors (half precision), record.json and CARD.md to `--out`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftwork_runs import environment

from ..domain.trainer import Budget, Mode, Run
from ..files import CHECKPOINT, publish
from ..images.patches import sample
from ..losses import dice_ce
from ..networks.network import BASE_NETWORK, build, save_weights
from . import sim

# Subjects 0..999 belong to the base; the few-shot task draws from 1000 on.
HELD_OUT = range(900, 912)
SIZES = ((48, 48, 48), (64, 64, 64), sim.SHAPE)


@dataclass(frozen=True)
class Recipe:
    """How the base is trained; the defaults made the shipped checkpoint."""

    subjects: int = 256
    steps: int = 6000
    batch: int = 8
    rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0


def two_tissues(label: Tensor) -> Tensor:
    """The base's labels: CSF (3) becomes background."""
    return label.where(label != 3, torch.zeros_like(label))


def scans(site: str, subjects: Any, device: str, say: Any = None) -> tuple[Tensor, Tensor]:
    """Simulated images (N, 1, X, Y, Z), normalised, and labels (N, X, Y, Z) on `device`."""
    images, labels = [], []
    for i, subject in enumerate(subjects):
        scan = sim.simulate(site, subject, device=device)
        images.append(sim.normalise(scan.image)[None])
        labels.append(scan.label)
        if say and (i + 1) % 64 == 0:
            say(f"simulated {i + 1} subjects")
    return torch.stack(images), torch.stack(labels)


@torch.no_grad()
def dice_of(model: nn.Module, images: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Mean Dice over cases for each class from 1 on, full volumes, in the model's own precision."""
    model.eval()
    scores = []
    for image, label in zip(images, labels, strict=True):
        mask = model(image[None])[0].argmax(0)
        scores.append(
            [
                (
                    2.0
                    * ((mask == k) & (label == k)).sum()
                    / ((mask == k).sum() + (label == k).sum())
                )
                for k in range(1, classes)
            ]
        )
    return torch.tensor(scores).mean(0).tolist()


def steps_of(
    recipe: Recipe, mode: Mode, images: Tensor, labels: Tensor, device: str
) -> Iterator[tuple[nn.Module, int, Tensor]]:
    """Train a fresh network step by step; yields (network, steps done, loss)."""
    torch.manual_seed(recipe.seed)
    model = mode.apply(build(BASE_NETWORK), device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay
    )
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1
    )
    draws = sim.generator("base", recipe.seed)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        # Patches of several sizes and whole volumes: normalisation statistics depend on the field of
        # view, and the base should serve sliding windows as well as whole volumes.
        size = SIZES[step % len(SIZES)]
        count = recipe.batch if size == sim.SHAPE else 2 * recipe.batch
        x, y = sample(images, labels, size, count, draws)
        # Contrast stays the site's own; only gain and offset move a little.
        gain, offset = (torch.randn(2, generator=draws) * 0.05).tolist()
        x = x * (1 + gain) + offset
        return x if mode.channels_last else x.contiguous(), y

    run = Run(model, optimizer, Budget(steps=recipe.steps))
    for loss in run.steps(
        draw, lambda net, batch: dice_ce(net(batch[0]), batch[1]), lambda *_: one_cycle.step()
    ):
        yield model, run.step, loss


def choose_mode(
    recipe: Recipe, images: Tensor, labels: Tensor, device: str, say: Any
) -> tuple[Mode, float]:
    """Time a few throw-away steps of each mode; the mode to use and its seconds per step.

    Deterministic kernels are kept unless they more than double the time.
    """
    probe, seconds = replace(recipe, steps=4 * len(SIZES)), {}
    for mode in (Mode(a, b) for b in (True, False) for a in (True, False)):
        start = 0.0
        for _, done, loss in steps_of(probe, mode, images, labels, device):
            if done in (len(SIZES), probe.steps):
                loss.item()  # wait for the device
                start = time.perf_counter() - start
        seconds[mode] = start / (probe.steps - len(SIZES))
        say(f"{mode}: {seconds[mode] * 1000:.0f} ms a step")
    best = min((m for m in seconds if m.deterministic), key=seconds.__getitem__)
    quick = min(seconds, key=seconds.__getitem__)
    mode = quick if seconds[quick] * 2 < seconds[best] else best
    return mode, seconds[mode]


def train(
    recipe: Recipe, device: str, say: Any, minutes: float | None = None
) -> tuple[nn.Module, Recipe, dict[str, Any]]:
    """Train by `recipe`; the network (weights rounded to half precision), the recipe and measurements.

    `minutes` sets `recipe.steps` to what fits by a timing on this device.
    """
    start = time.perf_counter()
    images, labels = scans("a", range(recipe.subjects), device, say)
    labels = two_tissues(labels)
    simulated = time.perf_counter() - start
    mode = Mode()
    if minutes is not None:
        mode, seconds = choose_mode(recipe, images, labels, device, say)
        recipe = replace(recipe, steps=max(30, int(minutes * 60 / seconds / 30) * 30))
    say(f"{recipe.steps} steps, {mode}")
    losses = torch.zeros(recipe.steps, device=device)
    start = time.perf_counter()
    for network, done, loss in steps_of(recipe, mode, images, labels, device):
        model, losses[done - 1] = network, loss
        if done % max(1, recipe.steps // 30) == 0:
            recent = losses[max(0, done - 99) : done].mean().item()
            spent = time.perf_counter() - start
            left = spent / done * (recipe.steps - done)
            say(f"step {done}/{recipe.steps} loss {recent:.4f} {spent:.0f} s, {left:.0f} s left")
    for p in model.parameters():
        p.data = p.data.half().float()
    every = max(1, recipe.steps // 200)
    curve = [
        [i, round(losses[i : i + every].mean().item(), 5)] for i in range(0, recipe.steps, every)
    ]
    return model, recipe, {
        "simulate_s": round(simulated, 1),
        "train_s": round(time.perf_counter() - start, 1),
        "mode": vars(mode),
        "curve": curve,
    }  # fmt: skip


def card(record: dict[str, Any]) -> str:
    """The checkpoint's card in Markdown, written from its record."""
    rows = {row["case"]: row["value"] for row in record["rows"]}
    details = record["details"]
    return f"""---
name: {CHECKPOINT.name}
kind: checkpoint
network: {json.dumps(details["network"])}
parameters: {details["parameters"]}
classes: {json.dumps(details["classes"])}
licence: Apache-2.0 (weights); the anatomy is ICBM 2009, see mni152-sim.md
sha256: {record["data"][CHECKPOINT.name]}
---

# {CHECKPOINT.name}

A brain tissue segmenter that knows two tissues (GM, WM) on one simulated T1-like contrast (site A).
It is the base that the medseg demo grafts.

- Data: {details["recipe"]["subjects"]} simulated subjects of site A (see mni152-sim.md). CSF was kept out: it
  counts as background. Nothing here was measured on a patient.
- Command: `{record["command"]}`
- Device and time: {record["device"]}, {record["seconds"]} s of training.
- Precision: float16 on disk, loaded as float32.
- Dice on {len(HELD_OUT)} held-out simulated subjects, site A: GM {rows["site a GM"]:.3f}, WM {rows["site a WM"]:.3f};
  site B, a contrast it never saw: GM {rows["site b GM"]:.3f}, WM {rows["site b WM"]:.3f}.
- Not for: any clinical use, any real scan without adaptation and a check by an expert, images that
  are not skull-stripped, and contrasts other than site A's.
"""


def main(argv: list[str] | None = None) -> int:
    """Train, measure, write; returns the exit code."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="graftwork_medseg.demo.train_base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--minutes", type=float, default=None, help="set --steps to what fits on this device"
    )
    for name, kind in Recipe.__annotations__.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float if kind == "float" else int,
            default=getattr(recipe, name),
        )
    args = vars(parser.parse_args(argv))
    out, device, minutes = args.pop("out"), args.pop("device"), args.pop("minutes")
    recipe = Recipe(**args)

    def say(text: str) -> None:
        print(text, flush=True)

    say(f"medseg base: {recipe} on {device}")
    model, recipe, measured = train(recipe, device, say, minutes)
    torch.use_deterministic_algorithms(False)
    rows = []
    for site in ("a", "b"):
        images, labels = scans(site, HELD_OUT, device)
        for name, value in zip(
            ("GM", "WM"), dice_of(model, images, two_tissues(labels), 3), strict=True
        ):
            rows.append(
                {
                    "case": f"site {site} {name}",
                    "variant": "base",
                    "metric": "dice",
                    "value": round(value, 4),
                    "n": len(HELD_OUT),
                }
            )
            say(f"held-out site {site} {name}: Dice {value:.4f}")
    target = save_weights(
        model,
        out / CHECKPOINT.name,
        config=BASE_NETWORK,
        classes=sim.CLASSES[:3],
        dtype=torch.float16,
    )
    record = {
        "record": "medseg/base",
        "claim": "the base segments GM and WM on the contrast it was trained on and fails on another",
        "command": f"python -m graftwork_medseg.demo.train_base --out OUT --device {device} "
        + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in vars(recipe).items()),
        **{k: v for k, v in environment(device).items() if v is not None},
        "seeds": [recipe.seed],
        "seconds": measured["train_s"],
        "data": {target.name: hashlib.sha256(target.read_bytes()).hexdigest()},
        "rows": rows,
        "notes": ["the subjects are simulated on the MNI152 average brain; see mni152-sim.md"],
        "details": {
            "recipe": vars(recipe),
            "network": vars(BASE_NETWORK),
            "classes": list(sim.CLASSES[:3]),
            "parameters": sum(p.numel() for p in model.parameters()),
            **measured,
        },
        "verdict": "seen",
    }
    with publish(out / "record.json") as file:
        file.write_text(json.dumps(record, indent=1) + "\n")
    with publish(out / "CARD.md") as file:
        file.write_text(card(record))
    say(f"wrote {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
