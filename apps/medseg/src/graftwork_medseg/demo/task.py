"""The demo's task: teach the base a new structure (CSF) and a new scanner (site B) from 5 volumes.

Who is in the training, validation and test sets is fixed by a hash of the subject's number, before
anything is trained. Rates and sites were chosen on the validation subjects alone. For a seed, every
arm sees the same patches in the same order: `head` trains the last 1x1x1 convolution, `graft` a
graft, `full` every weight. The last convolution has its own, larger rate in every arm: its new row
starts at zero and must catch up with rows that the base has trained for thousands of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw

from ..images.patches import sample
from ..losses import dice_ce
from ..networks.network import BASE_HEAD
from ..prediction.window import Windows
from . import sim

FIRST = 1000  # subjects of the task; the base's end below
POOL = 40
ROI = (48, 48, 48)  # window of the prediction
PATCH = (40, 40, 40)  # of the training: smaller, because a step is what the demo pays for
BATCH = 2
STEPS = 220
SEEDS = (0, 1, 2)


def subjects() -> dict[str, list[int]]:
    """The subjects of the task: 5 to train on, 6 to fix the task on, 8 to test on."""
    groups = sim.split(POOL, train=5, validation=6, test=8)
    return {name: [FIRST + i for i in members] for name, members in groups.items()}


Groups = Sequence[tuple[Sequence[nn.Parameter], float]]  # parameters and their peak rate


@dataclass(frozen=True)
class GraftPlan:
    """What the graft trains: a method, its sites and per-site fields, whole modules, and the rate."""

    name: str = "graft"
    rank: int = 4
    sites: tuple[str, ...] = ("*conv1.conv", "*conv2.conv", "down_layers.?.0.conv")
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    also_train: tuple[str, ...] = ("convInit.conv", "*.norm?", "conv_final.0")
    rate: float = 1e-2


# The network's convolutions by resolution, 0 the full one.
LEVEL = {
    "0": ("down_layers.0.*conv?.conv", "up_layers.2.*conv?.conv"),
    "1": ("down_layers.1.*conv?.conv", "up_layers.1.*conv?.conv", "down_layers.1.0.conv"),
    "2": ("down_layers.2.*conv?.conv", "up_layers.0.*conv?.conv", "down_layers.2.0.conv"),
}
# Chosen on the validation subjects; `experiments` repeats the search.
PLAN = GraftPlan(
    "LoRA, levels 0-2",  # of larger rank where the channels are few
    rank=8,
    sites=LEVEL["0"] + LEVEL["1"] + LEVEL["2"],
    overrides={g: {"rank": 3} for g in LEVEL["1"]} | {g: {"rank": 1} for g in LEVEL["2"]},
    rate=1e-2,
)
HEAD_RATE = 3e-2  # of the last convolution in the graft's arm
HEAD_ONLY_RATE = 1e-1


def new_class_head(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """Give the last convolution `classes` outputs: old rows kept, new rows small and random."""
    parent, _, leaf = BASE_HEAD.rpartition(".")
    old = model.get_submodule(BASE_HEAD)
    new = nn.Conv3d(old.in_channels, classes, 1)
    rows = old.out_channels
    with torch.no_grad():
        start = torch.randn(new.weight.shape, generator=sim.generator("head", seed))
        new.weight.copy_(0.01 * start)
        new.bias.zero_()
        new.weight[:rows], new.bias[:rows] = old.weight.cpu(), old.bias.cpu()
    setattr(model.get_submodule(parent), leaf, new.to(old.weight.device))
    return model


def head_arm(model: nn.Module, seed: int, rate: float, classes: int = 4) -> Groups:
    """Make the last convolution the only thing that trains."""
    new_class_head(model, classes, seed).requires_grad_(False)
    head = model.get_submodule(BASE_HEAD).requires_grad_(True)
    return [(list(head.parameters()), rate)]


def full_arm(
    model: nn.Module, seed: int, rate: float, head_rate: float, classes: int = 4
) -> Groups:
    """Make every weight train."""
    new_class_head(model, classes, seed).requires_grad_(True)
    head = set(model.get_submodule(BASE_HEAD).parameters())
    return [
        ([p for p in model.parameters() if p not in head], rate),
        ([p for p in model.parameters() if p in head], head_rate),
    ]


def graft_arm(
    model: nn.Module, plan: GraftPlan, seed: int, head_rate: float, classes: int = 4
) -> tuple[gw.Graft, Groups]:
    """Graft `plan` onto the base, with a new output row for each class that the base lacks."""
    rows = classes - model.get_submodule(BASE_HEAD).out_channels
    graft = gw.graft(
        model,
        gw.LoRA(rank=plan.rank),
        sites=list(plan.sites),
        overrides=plan.overrides,
        also_train=[*plan.also_train, gw.NewRows(BASE_HEAD, rows)],
        seed=seed,
    )
    named = list(graft.named_parameters())
    return graft, [
        ([p for n, p in named if not n.startswith(BASE_HEAD)], plan.rate),
        ([p for n, p in named if n.startswith(BASE_HEAD)], head_rate),
    ]


def fit(
    model: nn.Module,
    groups: Groups,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    steps: int = STEPS,
    roi: Sequence[int] = PATCH,
    batch: int = BATCH,
    inside: bool = False,
    tick: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train on random patches with AdamW and a one-cycle rate; the loss of each step.

    `tick(step, loss)` is called after each step, from 1 on.
    """
    optimizer = torch.optim.AdamW(
        [{"params": list(p), "lr": rate} for p, rate in groups], weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [rate for _, rate in groups],
        total_steps=steps,
        pct_start=0.15,
        cycle_momentum=False,
    )
    draw = sim.generator("fewshot", seed)
    model.train()
    losses = []
    for step in range(steps):
        x, y = sample(images, labels, roi, batch, draw, inside=inside)
        loss = dice_ce(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if tick:
            tick(step + 1, float(losses[-1]))
    model.eval()
    return torch.stack(losses).tolist()


@torch.inference_mode()
def scores_of(model: nn.Module, image: Tensor, roi: Sequence[int] = ROI) -> Tensor:
    """Class scores (C, X, Y, Z) of an image (1, X, Y, Z) by sliding windows of `roi`, a quarter overlap."""
    x, y, z = roi
    windows = Windows((x, y, z), overlap=0.25, batch=4)
    return windows.scores(
        lambda cut: model(cut.contiguous(memory_format=torch.channels_last_3d)), image, image.device
    )


def predict(model: nn.Module, images: Tensor, roi: Sequence[int] = ROI) -> Tensor:
    """Masks (N, X, Y, Z) uint8 of whole volumes (N, 1, X, Y, Z)."""
    model.eval()
    return torch.stack([scores_of(model, x, roi).argmax(0).to(torch.uint8) for x in images])


def dice(masks: Tensor, labels: Tensor, classes: int = 4) -> Tensor:
    """Dice per case and class, (N, classes - 1); 1 where both are empty."""
    out = torch.ones(len(masks), classes - 1)
    for k in range(1, classes):
        a, b = (masks == k).flatten(1), (labels == k).flatten(1)
        total = a.sum(1) + b.sum(1)
        score = 2.0 * (a & b).sum(1) / total.clamp_min(1)
        out[:, k - 1] = torch.where(total > 0, score, torch.ones_like(score)).cpu()
    return out
