"""Graftwork beside Hugging Face PEFT, both run here: fifteen convolutions, and what else differs.

    python -m benchmarks.versus_peft

Each convolution gets a rank 4 adapter with random values; its output is taken, the adapter merged, and
the output taken again. The two must be the same function. A row says how far they differ (float32,
relative to max|y|), or that the layer was refused (before anything was computed), crashed, or came out wrong
in silence. The last rows count; peft wins those on breadth.
"""

from __future__ import annotations

import argparse
import enum
import pkgutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra import quantised
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parent / "records" / "core" / "versus-peft.json"
RANK = 4
DROPOUT = 0.1
#: float32: above this relative to max|y| two outputs are not the same function
SAME = 1e-5
METRIC = "merged against unmerged, relative to max|y|"


class Kind(enum.StrEnum):
    """How an adapter fared on a layer."""

    EXACT = "exact"
    SILENT = "wrong in silence"
    CRASH = "crashes"
    REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    """`kind`, the error where there is one, and where it stopped."""

    kind: Kind
    error: float | None = None
    where: str = ""

    def __str__(self) -> str:
        if self.kind is Kind.SILENT:
            return f"**{self.kind}** (off by {self.error:.2g})"
        return f"{self.kind} {self.where}".rstrip()


@dataclass(frozen=True)
class Case:
    """One row: how to build the layer and the shape of its input."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dora: bool = False


_CUBE = (2, 8, 7, 7, 7)
_PLANE = (2, 8, 9, 9)
CASES: dict[str, Case] = {
    "Conv3d 3x3x3": Case(lambda: nn.Conv3d(8, 8, 3, padding=1), _CUBE),
    "Conv3d 3x3x3, stride 2": Case(lambda: nn.Conv3d(8, 8, 3, stride=2, padding=1), _CUBE),
    "Conv3d 3x3x1": Case(lambda: nn.Conv3d(8, 8, (3, 3, 1)), _CUBE),
    "Conv3d 3x3x3, DoRA": Case(lambda: nn.Conv3d(8, 8, 3, padding=1), _CUBE, dora=True),
    "Conv3d 1x1x1": Case(lambda: nn.Conv3d(8, 8, 1), _CUBE),
    "Conv3d 1x1x3": Case(lambda: nn.Conv3d(8, 8, (1, 1, 3)), _CUBE),
    "Conv2d, dilation 2": Case(lambda: nn.Conv2d(8, 8, 3, dilation=2), _PLANE),
    "Conv3d, dilation 2": Case(lambda: nn.Conv3d(8, 8, 3, dilation=2), _CUBE),
    'Conv2d, padding "same", dilation 2': Case(
        lambda: nn.Conv2d(8, 8, 3, padding="same", dilation=2), _PLANE
    ),
    "Conv2d, reflect padding": Case(
        lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), _PLANE
    ),
    "Conv3d, replicate padding": Case(
        lambda: nn.Conv3d(8, 8, 3, padding=1, padding_mode="replicate"), _CUBE
    ),
    "Conv3d, groups 2": Case(lambda: nn.Conv3d(8, 8, 3, groups=2), _CUBE),
    "Conv2d, groups 2": Case(lambda: nn.Conv2d(8, 8, 3, groups=2), _PLANE),
    "Conv2d, depthwise": Case(lambda: nn.Conv2d(8, 8, 3, groups=8), _PLANE),
    "ConvTranspose3d": Case(lambda: nn.ConvTranspose3d(8, 8, 2, stride=2), _CUBE),
}
#: peft's modules that serve quantised base layers, one back-end each (bitsandbytes, GPTQ, ...)
BACKENDS = {"aqlm", "awq", "bnb", "eetq", "gptq", "hqq", "inc", "torchao"}


def setting(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(case.make()).eval(), torch.randn(case.shape)


def difference(before: Tensor, after: Tensor) -> Outcome:
    error = float((before - after).abs().max() / before.abs().max())
    return Outcome(Kind.EXACT if error <= SAME else Kind.SILENT, error)


@torch.no_grad()
def ours(case: Case) -> Outcome:
    """The case under Graftwork."""
    model, x = setting(case)
    # a dropout, idle in eval mode, keeps the branch apart: without one a narrow convolution may run
    # on the changed weight, and merging it would change nothing
    method = (gw.DoRA if case.dora else gw.LoRA)(RANK, dropout=DROPOUT)
    try:
        graft = gw.graft(model, method)
    except gw.GraftError:
        return Outcome(Kind.REFUSED)
    for p in graft.parameters():
        p.add_(0.3 * torch.randn_like(p))
    before = model(x)
    graft.merge()
    return difference(before, model(x))


@torch.no_grad()
def theirs(case: Case) -> Outcome:
    """The case under peft. Where it stops, its own exception tells a refusal from a crash."""
    import peft

    model, x = setting(case)
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=["0"],
        lora_dropout=DROPOUT,
        init_lora_weights=False,
        use_dora=case.dora,
    )
    step = "at injection"
    try:
        wrapped = peft.get_peft_model(model, config)
        wrapped.eval()
        step = "in the forward pass"
        before = wrapped(x)
        step = "in the merge"
        merged = wrapped.merge_and_unload()
        return difference(before, merged(x))
    except NotImplementedError:
        return Outcome(Kind.REFUSED, where=step)
    except Exception as error:
        deliberate = step == "at injection" and isinstance(error, ValueError)
        return Outcome(Kind.REFUSED if deliberate else Kind.CRASH, where=step)


def entries_changed() -> tuple[int, int]:
    """Of 33,280 float32 entries, how many differ after merge and unmerge: (Graftwork, peft)."""
    import peft

    torch.manual_seed(0)
    layer = nn.Linear(260, 128, bias=False)
    before = layer.weight.detach().clone()
    model = nn.Sequential(layer)
    graft = gw.graft(model, gw.LoRA(RANK))
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.3 * torch.randn_like(p))
    graft.merge()
    graft.unmerge()
    graft.remove()
    mine = int((layer.weight != before).sum())
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config)
    wrapped.merge_adapter()
    wrapped.unmerge_adapter()
    return mine, int((wrapped.base_model.model[0].base_layer.weight != before).sum())


def breadth() -> dict[str, tuple[int, int]]:
    """Counts on which peft wins: (Graftwork, peft)."""
    import peft
    import peft.tuners.lora

    files = {m.name for m in pkgutil.iter_modules(peft.tuners.lora.__path__)}
    return {
        "methods": (len(gw.cards()), len(peft.PeftType)),
        "quantised back-ends": (len(quantised.BACKENDS), len(files & BACKENDS)),
    }


def row(case: str, variant: str, outcome: Outcome) -> Row:
    if outcome.kind is Kind.EXACT:
        return Row(case=case, variant=variant, metric=METRIC, value=outcome.error)
    return Row(case=case, variant=variant, metric=METRIC, value=None, note=str(outcome))


def measure() -> tuple[dict[str, tuple[Outcome, Outcome]], list[Row]]:
    """(outcomes by case: Graftwork and peft; the record's rows)."""
    import peft

    names = ("graftwork", f"peft {peft.__version__}")
    outcomes = {name: (ours(case), theirs(case)) for name, case in CASES.items()}
    rows = [
        row(case, name, outcome)
        for case, pair in outcomes.items()
        for name, outcome in zip(names, pair, strict=True)
    ]
    counts = {"of 33,280 weights, changed by merge and unmerge": entries_changed(), **breadth()}
    rows += [
        Row(case=case, variant=name, metric=METRIC, value=count)
        for case, pair in counts.items()
        for name, count in zip(names, pair, strict=True)
    ]
    return outcomes, rows


def tally(outcomes: Any) -> dict[str, int]:
    """How many of these outcomes are of each kind."""
    kinds = [o.kind for o in outcomes]
    return {kind.value: kinds.count(kind) for kind in Kind}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus_peft", description=__doc__)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    outcomes, rows = measure()
    exact = tally(pair[0] for pair in outcomes.values())["exact"]
    peft_tally = tally(pair[1] for pair in outcomes.values())
    words = ", ".join(f"{n} {kind}" for kind, n in peft_tally.items())
    record = Record(
        record="core/versus-peft",
        claim="On these layers an adapter and its merged form are the same function.",
        command="python -m benchmarks.versus_peft",
        seeds=[0],
        seconds=round(time.perf_counter() - began, 1),
        rows=rows,
        notes=["float32; rank 4, random values. The last rows are counts."],
        details={"peft": peft_tally},
        verdict=f"{'seen' if exact == len(CASES) else 'partly'}: {exact} of {len(CASES)} exact; "
        f"peft: {words}.",
        **environment(),
    )
    print(record.write(options.out))
    for r in rows:
        print(f"{r.case}: {r.variant}: {r.note if r.value is None else r.value}")
    print(record.verdict)
    return 0 if exact == len(CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
