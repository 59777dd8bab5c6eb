"""Do NOBLE's branches reach a loss in fewer steps, and in less time, than the decoder without them?

    python -m benchmarks.methods.noble                              # minutes on one core
    python -m benchmarks.methods.noble --larger --device cuda       # 10 million weights; resumed by the same command

Decoders learn the source text of Python's standard library from scratch, byte by byte; every tenth file is held out.
Beside CosNet stand the controls: a two-layer GELU branch, a linear branch (which a weight could hold), and the plain
decoder with a feed-forward network as much wider as the branch has numbers. All rates are constant after a warm-up, so
that a curve's every point is a run of its own length.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods.harness import (
    BOUNDS,
    Experiment,
    Figures,
    Trial,
    above,
    below,
    edges,
    only,
    ratio,
    run_arms,
    summary,
    told,
    versus,
)
from benchmarks.methods.transformer import Decoder
from graftwork.pretraining import pretrain
from graftwork_runs import Row

TOKENS, HEADS, POINTS, WARMUP = 128, 4, 10, 20
ROUNDS, TURN = 7, 10
RATES = (1e-3, 3e-3, 1e-2)
CASE, PLAIN, WIDER, COSNET = "equal steps", "plain", "plain, wider", "CosNet"
BRANCHES = {
    COSNET: {"act": "cos"},
    "GELU branch": {"act": "gelu"},
    "linear branch": {"act": "none", "layers": 1},
}
LOSS, AT, SECONDS = "loss on held-out files", "loss at step {}", "time of a step, ms"
FEWER, FASTER = (
    "steps that {} takes, over the arm's, to the loss that both reach",
    "the same in time",
)
SAME_TIME = "loss in the time that {} takes, less its loss"
NUMBERS, WORK = "numbers beyond plain, %", "operations of a token beyond plain, %"


@functools.cache
def text() -> tuple[Tensor, Tensor]:
    """The top-level modules of the standard library as bytes below 128: all but every tenth file, and those."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for i, path in enumerate(paths):
        parts[i % 10 == 9].append(path.read_bytes())
    train, held = (
        torch.frombuffer(bytearray(b"".join(p)), dtype=torch.uint8).clamp(max=TOKENS - 1)
        for p in parts
    )
    return train, held


def files() -> dict[str, str]:
    content = b"".join(part.numpy().tobytes() for part in text())
    return {"source of Python's standard library": hashlib.sha256(content).hexdigest()}


def decoder(arm: str, o: argparse.Namespace) -> nn.Module:
    """The arm's network, its branches in it, every number of it training."""
    hidden = 4 * o.width
    if arm == WIDER:
        # each hidden unit of a block is a row, a bias and a column
        branch, plain = size(decoder(COSNET, o)), size(decoder(PLAIN, o))
        hidden += round((branch - plain) / (o.depth * (2 * o.width + 1)))
    model = Decoder(TOKENS, o.width, o.depth, HEADS, o.context, hidden)
    if arm in BRANCHES:
        method = gw.NOBLE(o.rank, up_std=0.01, **BRANCHES[arm])
        pretrain(gw.graft(model, method, sites=["blocks.*"]))
    return model


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def operations(model: nn.Module) -> float:
    """Of a token in the matrices of one forward, two for each entry; attention's own products are alike in all arms."""
    return 2.0 * sum(
        p.numel() for n, p in model.named_parameters() if p.dim() == 2 and n not in TABLES
    )


TABLES = ("embed.weight", "place.weight")


def windows(source: Tensor, count: int, length: int, draw: torch.Generator) -> Tensor:
    """`(count, length + 1)` pieces of a text."""
    start = torch.randint(len(source) - length, (count, 1), generator=draw)
    return source[start + torch.arange(length + 1)].long()


def loss_of(model: nn.Module, some: Tensor) -> Tensor:
    half = some.device.type == "cuda"
    with torch.autocast(some.device.type, dtype=torch.bfloat16, enabled=half):
        logits = model(some[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), some[:, 1:].flatten())


@torch.no_grad()
def held_out(model: nn.Module, o: argparse.Namespace) -> float:
    """Mean loss on the same pieces of the held-out files for all arms and seeds."""
    some = windows(text()[1], 8 * o.batch, o.context, torch.Generator().manual_seed(0))
    parts = some.to(o.device).split(o.batch)
    return statistics.fmean(float(loss_of(model, part)) for part in parts)


def now(device: str) -> float:
    """Seconds: of the processor, or until the GPU has done what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def learner(
    arm: str, seed: int, rate: float, o: argparse.Namespace
) -> Callable[[Tensor], nn.Module]:
    """What takes one step of training on some pieces of text."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = decoder(arm, o).to(o.device)
    groups = gw.paced(model, rate) if arm in BRANCHES else [{"params": list(model.parameters())}]
    optimizer = torch.optim.AdamW(
        groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=o.device != "cpu"
    )
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / WARMUP))

    def step(some: Tensor) -> nn.Module:
        optimizer.zero_grad()
        loss_of(model, some).backward()
        optimizer.step()
        warm.step()
        return model

    return step


def trial(arm: str, o: argparse.Namespace) -> Trial:
    def run(seed: int, rate: float) -> Figures:
        step, draw = learner(arm, seed, rate, o), torch.Generator().manual_seed(seed)
        pause, found = max(1, o.steps // POINTS), {}
        for at in range(1, pause * POINTS + 1):
            model = step(windows(text()[0], o.batch, o.context, draw).to(o.device))
            if at % pause == 0:
                found[AT.format(at)] = held_out(model, o)
        return {LOSS: found[AT.format(at)], **found}

    return run


def times(arms: Iterable[str], o: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of a step by arm and round; in a round all arms take turns, under the same load of the machine."""
    steps = {arm: learner(arm, 0, RATES[0], o) for arm in arms}
    some = windows(text()[0], o.batch, o.context, torch.Generator().manual_seed(0)).to(o.device)
    found: dict[str, list[float]] = {arm: [] for arm in steps}
    for turn in range(ROUNDS + 1):
        for arm, step in steps.items():
            began = now(o.device)
            for _ in range(TURN):
                step(some)
            if turn:  # the first warms up
                found[arm].append(1000 * (now(o.device) - began) / TURN)
    return found


def curve(figures: Figures) -> tuple[list[int], list[float]]:
    """Steps, and the lowest loss so far."""
    steps, lows = [], []
    for key, value in figures.items():
        if key.startswith(AT.format("")):
            steps.append(int(key.rsplit(" ", 1)[1]))
            lows.append(min([value, *lows[-1:]]))
    return steps, lows


def reached(figures: Figures, loss: float) -> float:
    """The step at which the curve comes down to a loss, between its points along the line; NaN if never."""
    steps, lows = curve(figures)
    for i, low in enumerate(lows):
        if low <= loss:
            if i == 0:
                return float(steps[0])
            share = (lows[i - 1] - loss) / (lows[i - 1] - low)
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return float("nan")


def loss_at(figures: Figures, step: float) -> float:
    """The lowest loss by a step, along the line between points."""
    steps, lows = curve(figures)
    for i in range(1, len(steps)):
        if step < steps[i]:
            share = max(0.0, (step - steps[i - 1]) / (steps[i] - steps[i - 1]))
            return lows[i - 1] + share * (lows[i] - lows[i - 1])
    return lows[-1]


def gain(mine: Figures, other: Figures) -> float:
    """Steps of the other over mine to the higher of the two best losses, which both reach."""
    loss = max(min(curve(f)[1]) for f in (mine, other))
    return reached(other, loss) / reached(mine, loss)


def measure(seeds: list[int], o: argparse.Namespace) -> list[Row]:
    names = (PLAIN, WIDER, *BRANCHES)
    arms = {arm: trial(arm, o) for arm in names}
    rows, found = run_arms(CASE, arms, RATES, seeds, LOSS, kept=o.kept, sweep=o.sweep)
    spent = times(found, o)
    plain = decoder(PLAIN, o)
    for arm in names:
        model = decoder(arm, o)
        for metric, of in ((NUMBERS, size), (WORK, operations)):
            more = round(100 * (of(model) / of(plain) - 1), 2)
            rows.append(Row(case=CASE, variant=arm, metric=metric, value=more))
        if arm in found:
            rows.append(summary(CASE, arm, SECONDS, spent[arm]))
        for other in (PLAIN, WIDER):
            if arm != other and arm in found and other in found:
                slower = versus(CASE, arm, ratio(SECONDS, other), spent[arm], spent[other])
                rows += [
                    slower,
                    *against(arm, other, found[arm], found[other], slower.value or 1.0),
                ]
    return rows


def against(
    arm: str, other: str, mine: Sequence[Figures], theirs: Sequence[Figures], slower: float
) -> list[Row]:
    """What an arm has against another: in steps, in time, and in the loss after the same time.

    Args:
        slower: time of the arm's step over that of the other's.
    """
    fewer = [gain(a, b) for a, b in zip(mine, theirs, strict=True)]
    ends = [loss_at(a, curve(a)[0][-1] / max(1.0, slower)) for a in mine]
    best = [min(curve(b)[1]) for b in theirs]
    one = [1.0] * len(fewer)
    return [
        versus(CASE, arm, FEWER.format(other), fewer, one),
        versus(CASE, arm, f"{FEWER.format(other)}, {FASTER}", [f / slower for f in fewer], one),
        versus(CASE, arm, SAME_TIME.format(other), ends, best, as_ratio=False),
    ]


def judge(rows: list[Row]) -> str:
    """Seen if CosNet needs fewer steps than the plain and the wider decoder, less time than plain, and fewer steps than
    the linear branch gains; partly if it needs fewer steps than either decoder."""
    steps = {other: only(rows, CASE, COSNET, FEWER.format(other)) for other in (PLAIN, WIDER)}
    timed = only(rows, CASE, COSNET, f"{FEWER.format(PLAIN)}, {FASTER}")
    linear = only(rows, CASE, "linear branch", FEWER.format(PLAIN))
    gelu = only(rows, CASE, "GELU branch", FEWER.format(PLAIN))
    ahead = [above(row) for row in steps.values()]
    more = (steps[PLAIN].value or 0) > (linear.value or 0)
    word = (
        "seen"
        if all(ahead) and above(timed) and more
        else "partly"
        if any(ahead)
        else "not seen at this scale"
    )
    same = only(rows, CASE, COSNET, SAME_TIME.format(PLAIN))
    sign = "lower" if below(same, 0) else "higher" if above(same, 0) else "not to be told from its"
    return (
        f"{word}: to the same loss the plain decoder takes {told(steps[PLAIN])} times CosNet's steps and {told(timed)} "
        f"times its time, one with as many numbers {told(steps[WIDER])} times its steps; plain over a linear branch "
        f"{told(linear)}, over a GELU branch {told(gelu)}. CosNet has "
        f"{only(rows, CASE, COSNET, NUMBERS).value:g} % more numbers and "
        f"{only(rows, CASE, COSNET, WORK).value:g} % more operations; in plain's time its loss is {sign}: {told(same)}."
    )


EXPERIMENT = Experiment(
    name="noble",
    claim=(
        "In pre-training, CosNet branches reach the plain model's best loss in up to 1.47 times fewer steps and up to "
        "1.22 times less time, for 4 to 24 % more numbers."
    ),
    model="decoder of 2 blocks, width 64, 128 bytes, branches of rank 8 on all linears of the blocks",
    data="4.7 MB of Python's standard library; every tenth file held out",
    measure=measure,
    judge=judge,
    shown=[
        *(
            (CASE, arm, FEWER.format(PLAIN))
            for arm in (COSNET, "GELU branch", "linear branch", WIDER)
        ),
        (CASE, COSNET, FEWER.format(WIDER)),
        (CASE, COSNET, f"{FEWER.format(PLAIN)}, {FASTER}"),
        *((CASE, arm, LOSS) for arm in (PLAIN, WIDER, COSNET, "GELU branch")),
        (CASE, COSNET, ratio(SECONDS, PLAIN)),
    ],
    notes=[
        BOUNDS,
        (
            "AdamW, betas 0.9 and 0.95, no decay, 20 steps of warm-up, then a constant rate: the best of three by the "
            "last loss on seed 1000; all branches at the paper's multipliers"
        ),
        (
            "steps to the higher of two arms' best losses, which both reach, along the line between ten points; above "
            "1 the arm is ahead"
        ),
        "float32 on a CPU, bfloat16 autocast on a GPU",
        (
            "a step's time: seven rounds in which all arms take ten steps in turn, the ratio taken within a round; "
            "processor time on a CPU, time until a GPU has done; eager, not compiled"
        ),
        "operations of the matrices alone, two for each entry; cosines and attention's own products are not counted",
        "plain starts as torch does, branched matrices from half the usual spread, as in the paper",
    ],
    remarks=edges(RATES),
    sizes={"width": 64, "depth": 2, "context": 64, "batch": 8, "rank": 8, "steps": 300, "sweep": 1},
    files=files,
)
LARGER = dataclasses.replace(
    EXPERIMENT,
    name="larger/noble",
    model="decoder of 6 blocks, width 384, 128 bytes, branches of rank 32 on all linears of the blocks",
    sizes={
        "width": 384,
        "depth": 6,
        "context": 256,
        "batch": 64,
        "rank": 32,
        "steps": 1000,
        "sweep": 1,
    },
)
EXPERIMENT = dataclasses.replace(EXPERIMENT, larger=LARGER)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
