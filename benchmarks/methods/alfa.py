"""Alfa against other ways to adapt a gaze network to one user without labels, on drawn faces.

    python -m benchmarks.methods.alfa                 # minutes on one core
    python -m benchmarks.methods.alfa --users 200 --targets 40 --epochs 20 --device cuda

A small residual network learns gaze on source users. Each target user gives n images without labels; every arm takes
ten Adam steps on the mirror loss, the last one counts, at the rate that was best on users of their own. Two kinds of
users: "light" comes from one side, which makes the network asymmetric on them and which the loss can see; "kappa"
users look elsewhere than they seem to, which no loss without labels can see. With five labels all arms should gain.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods.faces import SIZE, Users, degrees, draw_users, sample
from benchmarks.methods.harness import Experiment
from graftwork.unlabelled import adapt, symmetry_loss
from graftwork_runs import Row

RATES = (3e-4, 2e-3, 1e-2, 5e-2)
STEPS = 10
SHOTS = (1, 5, 20)
KINDS = {"light": {"light": 0.5, "kappa": 0.0}, "kappa": {"light": 0.1, "kappa": 0.1}}
SITES = ["body.*.conv*"]
ARMS: dict[str, Callable[[nn.Module], gw.Graft]] = {
    "full fine-tuning": lambda m: gw.graft(m, gw.LoRA(1), sites=[], also_train=["stem", "body", "head"]),
    "norm affine": lambda m: gw.graft(m, gw.NormAffine()),
    "conv LoRA 4": lambda m: gw.graft(m, gw.LoRA(4), sites=SITES, seed=0),
    "singular values": lambda m: gw.graft(m, gw.Alfa(8, form="free"), sites=SITES),
    "Alfa diagonal": lambda m: gw.graft(m, gw.Alfa(8, form="diagonal"), sites=SITES),
    "Alfa attention": lambda m: gw.graft(m, gw.Alfa(8, gate=0.01), sites=SITES, seed=0),
}  # fmt: skip


class Block(nn.Module):
    """Two convolutions behind batch norms and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(h)))


class Gaze(nn.Module):
    """Images `(n, 1, SIZE, SIZE)` to pitch and yaw."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)
        )
        self.body = nn.Sequential(Block(width), nn.MaxPool2d(2), Block(width))
        self.head = nn.Linear(width * (SIZE // 4) ** 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(torch.relu(self.stem(x))).flatten(1))


def mirror(x: Tensor) -> Tensor:
    return x.flip(-1)


def undo(gaze: Tensor) -> Tensor:
    return gaze * gaze.new_tensor([1.0, -1.0])


def unlabelled(model: nn.Module, x: Tensor) -> Tensor:
    return symmetry_loss(model, x, mirror, undo)


def pretrain(users: Users, epochs: int, seed: int, device: torch.device) -> nn.Module:
    """A network on 30 images of each source user, in eval mode."""
    torch.manual_seed(seed)
    model = Gaze().to(device)
    x, gaze = (t.to(device) for t in sample(users, 30, torch.Generator().manual_seed(seed)))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64)[: len(x) // 64]:
            optimizer.zero_grad()
            F.l1_loss(model(x[batch]), gaze[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class Person:
    """One target user's images: up to 20 to adapt to, 40 to test on."""

    def __init__(self, x: Tensor, gaze: Tensor) -> None:
        self.x, self.gaze = x[:20], gaze[:20]
        self.test, self.truth = x[20:], gaze[20:]

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        return float(degrees(model(self.test).cpu(), self.truth.cpu()).mean())


def persons(
    kind: str, count: int, seed: int, device: torch.device, shift: float = 1.0
) -> list[Person]:
    """Target users of a kind; with `shift` 0 users like those of the source."""
    rng = torch.Generator().manual_seed(seed)
    users = draw_users(count, rng, shift=shift, **(KINDS[kind] if shift else {}))
    x, gaze = (t.to(device) for t in sample(users, 60, rng))
    return [Person(a, b) for a, b in zip(x.split(60), gaze.split(60), strict=True)]


def after(graft: gw.Graft, person: Person, shots: int, rate: float, labels: bool) -> float:
    """Degrees on the person's test images after adapting; the graft is as it was then."""
    x, gaze = person.x[:shots], person.gaze[:shots]
    loss = (lambda m, x: F.l1_loss(m(x), gaze)) if labels else unlabelled
    done = adapt(graft, x, loss, steps=STEPS, lr=rate)
    found = person.error(graft.model)
    done.undo()
    return found


def one_seed(seed: int, options: argparse.Namespace) -> dict[tuple[str, str], dict[str, float]]:
    """Figures by (case, arm)."""
    device = torch.device(options.device)
    rng = torch.Generator().manual_seed(1000 + seed)
    base = pretrain(draw_users(options.users, rng), options.epochs, seed, device)
    chosen = {k: persons(k, options.validation, 5000 + seed, device) for k in KINDS}
    tested = {k: persons(k, options.targets, 9000 + seed, device) for k in KINDS}
    own = persons("light", options.targets, 7000 + seed, device, shift=0.0)
    source = statistics.mean(p.error(base) for p in own)
    out: dict[tuple[str, str], dict[str, float]] = {
        ("new source users", "not adapted"): {"error": source}
    }
    print(f"seed {seed}: {source:.2f} degrees on new source users", flush=True)
    before = {k: [p.error(base) for p in tested[k]] for k in KINDS}
    cases = [(k, n, False) for k in KINDS for n in SHOTS] + [(k, 5, True) for k in KINDS]
    for kind, n, labels in cases:
        case = f"{kind}, {n} {'labelled' if labels else 'unlabelled'}"
        out[case, "not adapted"] = {"error": statistics.mean(before[kind])}
    for arm, make in ARMS.items():
        graft = make(copy.deepcopy(base))
        size = sum(p.numel() for p in graft.parameters())
        for labels in (False, True):
            # one rate for both kinds of users, because nobody knows a user's kind
            score = {
                rate: statistics.mean(
                    after(graft, p, 5, rate, labels) for k in KINDS for p in chosen[k]
                )
                for rate in RATES
            }
            rate = min(score, key=lambda r: score[r])
            for kind, n, with_labels in cases:
                if with_labels != labels:
                    continue
                begun = time.process_time()
                found = [after(graft, p, n, rate, labels) for p in tested[kind]]
                spent = (time.process_time() - begun) / len(found)
                worse = [a > b for a, b in zip(found, before[kind], strict=True)]
                case = f"{kind}, {n} {'labelled' if labels else 'unlabelled'}"
                out[case, arm] = {
                    "error": statistics.mean(found),
                    "users made worse": sum(worse) / len(worse),
                    "trained parameters": size,
                    "time per user": 1000 * spent,
                    "rate": rate,
                }
    return out


UNITS = {"error": "degrees", "time per user": "ms"}


def rows_of(seeds: list[dict[tuple[str, str], dict[str, float]]]) -> list[Row]:
    """Means over seeds, bounded by the smallest and the largest."""
    rows = []
    for (case, arm), first in seeds[0].items():
        for metric in first:
            values = [s[case, arm][metric] for s in seeds]
            rows.append(
                Row(
                    case=case, variant=arm, metric=metric, value=_short(statistics.mean(values)),
                    lo=_short(min(values)), hi=_short(max(values)), n=len(values),
                    unit=UNITS.get(metric),
                )
            )  # fmt: skip
            if metric == "error" and arm != "not adapted":
                gains = [s[case, "not adapted"]["error"] - s[case, arm]["error"] for s in seeds]
                rows.append(
                    Row(
                        case=case, variant=arm, metric="gain", value=_short(statistics.mean(gains)),
                        lo=_short(min(gains)), hi=_short(max(gains)), n=len(gains), unit="degrees",
                    )
                )  # fmt: skip
    return rows


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def judge(rows: list[Row]) -> str:
    """Seen, if an Alfa arm gains in every seed under light at n = 5 and no other small arm gains more."""
    gains = {r.variant: r for r in rows if r.metric == "gain" and r.case == "light, 5 unlabelled"}
    alfa = max((g for a, g in gains.items() if a.startswith("Alfa")), key=lambda g: g.value or 0)
    others = [g for a, g in gains.items() if not a.startswith("Alfa")]
    best = max(others, key=lambda g: g.value or 0)
    sure = (alfa.lo or 0) > 0
    most = (alfa.value or 0) >= (best.value or 0)
    word = ("seen" if most else "partly") if sure else "not seen at this scale"
    return (
        f"{word}: under light from one side, 5 images, {alfa.variant} gains {alfa.value:g} degrees "
        f"({alfa.lo:g} to {alfa.hi:g}), the best other arm, {best.variant}, {best.value:g} "
        f"({best.lo:g} to {best.hi:g})"
    )


def edges(rows: list[Row]) -> list[str]:
    """Which arms were best at an end of the grid in some seed, so that a wider one may do better."""
    found = {
        f"{r.variant}, {'labelled' if r.case.endswith(' labelled') else 'unlabelled'}"
        for r in rows
        if r.metric == "rate" and (r.lo == RATES[0] or r.hi == RATES[-1])
    }
    return [f"Best at an end of the grid in some seed: {'; '.join(sorted(found)) or 'no arm'}."]


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    begun, found = time.monotonic(), []
    for seed in seeds:
        found.append(one_seed(seed, options))
        print(f"seed {seed}: {time.monotonic() - begun:.0f} s", flush=True)
    return rows_of(found)


EXPERIMENT = Experiment(
    name="alfa",
    claim=(
        "Reweighting the components of existing filters adapts a gaze network to a user from five images without "
        "labels, with a lower error than other adapters."
    ),
    model="residual network of 2 blocks, 16 channels, 10,750 weights",
    data=f"drawn faces of {SIZE} x {SIZE}",
    measure=measure,
    judge=judge,
    shown=[
        *(("light, 5 unlabelled", arm, "gain") for arm in ("Alfa diagonal", "Alfa attention")),
        *(("light, 5 unlabelled", arm, "gain") for arm in ("singular values", "conv LoRA 4")),
    ],
    notes=[
        "Drawn faces, not photographs: pixel noise, one head pose, no blur.",
        "Values are means over seeds, bounds the extremes; each seed has its own network and users.",
        "All arms: the same mirror loss, ten Adam steps, of which the last one counts.",
        "An arm's rate is the best on validation users that have labels, one for both kinds of users and all n.",
        "The layer is our reconstruction; prompts (trained padding) are not among the arms.",
        "Time is processor time of adapting and testing.",
    ],
    remarks=edges,
    sizes={"users": 80, "epochs": 25, "targets": 6, "validation": 3},
    details={"steps": STEPS, "rates": list(RATES)},
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
