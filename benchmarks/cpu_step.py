"""A training step on a CPU: the frozen floor, Graftwork, peft at its best setting, full tuning.

    python -m benchmarks.cpu_step

The floor is what no adapter can avoid: a forward pass of the frozen network and the backward pass to
its input. The others are whole steps, AdamW included. All variants take turns in one process, on
the same batch, with the same layers adapted and the same number of trained parameters; each ratio
to the floor is taken within a round. peft is measured in each of the settings named below and its
row is the fastest.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.timing import median_row, take_turns
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parent / "records" / "speed" / "cpu-step.json"
RANK = 8
Step = Callable[[], None]


class Block(nn.Module):
    """A pre-norm transformer block of plain linears."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in self.qkv())
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    def qkv(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q, self.k, self.v


def transformer() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(Block(256, 4) for _ in range(4))), torch.randn(4, 128, 256)


def segresnet() -> tuple[nn.Module, Tensor]:
    from monai.networks.nets import SegResNet

    network = SegResNet(init_filters=8, in_channels=1, out_channels=3)
    return network, torch.randn(1, 1, 32, 32, 32)


CASES = {
    "transformer, 4 blocks of 256, 4 x 128 tokens": transformer,
    "SegResNet 8, one 32 x 32 x 32 volume": segresnet,
}


def sites(model: nn.Module) -> list[str]:
    """Every linear, and every 3D convolution of kernel 3: peft crashes on kernel 1."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3))
    ]


def floor(model: nn.Module, x: Tensor) -> Step:
    model.requires_grad_(False)
    x = x.clone().requires_grad_(True)

    def step() -> None:
        x.grad = None
        model(x).square().mean().backward()

    return step


def training(model: nn.Module, x: Tensor) -> Step:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()

    return step


def ours(model: nn.Module) -> nn.Module:
    gw.graft(model, gw.LoRA(rank=RANK), sites=sites(model), any_rank=True)  # as peft has it
    return model


def peft_wrapped(model: nn.Module, autocast: bool = True) -> nn.Module:
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=sites(model))
    return peft.get_peft_model(model, config, autocast_adapter_dtype=autocast)


def peft_plain(model: nn.Module) -> nn.Module:
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=sites(model))
    return peft.inject_adapter_in_model(config, model)


PEFT = {
    "get_peft_model": peft_wrapped,
    "get_peft_model, autocast_adapter_dtype=False": lambda m: peft_wrapped(m, autocast=False),
    "inject_adapter_in_model": peft_plain,
}


def measure(case: str, rounds: int) -> tuple[list[Row], str]:
    torch.manual_seed(0)
    base, x = CASES[case]()
    base.train()
    adapted = {"graftwork LoRA 8": ours, **{f"peft, {name}": f for name, f in PEFT.items()}}
    models = {name: change(copy.deepcopy(base)) for name, change in adapted.items()}
    counts = {
        name: sum(p.numel() for p in model.parameters() if p.requires_grad)
        for name, model in models.items()
    }
    if len(set(counts.values())) != 1:
        raise RuntimeError(f"the variants train different numbers of parameters: {counts}")
    with torch.no_grad():
        expected = base(x)
        for name, model in models.items():
            torch.testing.assert_close(model(x), expected, msg=f"{name} does not start at the base")
    steps = {"floor": floor(copy.deepcopy(base), x)}
    steps |= {name: training(model, x) for name, model in models.items()}
    steps["full fine-tuning"] = training(copy.deepcopy(base), x)
    seconds = take_turns(steps, rounds=rounds, warmup=3)
    best = min(
        (n for n in seconds if n.startswith("peft")), key=lambda n: statistics.median(seconds[n])
    )
    shown = {
        "frozen floor": "floor",
        "graftwork, LoRA 8": "graftwork LoRA 8",
        "peft, LoRA 8, its best setting": best,
        "full fine-tuning": "full fine-tuning",
    }
    rows = []
    for variant, name in shown.items():
        values = seconds[name]
        ratios = [a / b for a, b in zip(values, seconds["floor"], strict=True)]
        rows.append(median_row(case, variant, "step", [1000 * v for v in values], "ms"))
        if name != "floor":
            rows.append(median_row(case, variant, "ratio to floor", ratios))
    pairs = zip(seconds["graftwork LoRA 8"], seconds[best], strict=True)
    rows.append(median_row(case, "graftwork, LoRA 8", "ratio to peft", [a / b for a, b in pairs]))
    return rows, best.removeprefix("peft, ")


def verdict(rows: list[Row]) -> str:
    """Whether a step through Graftwork is as fast as one through peft, in each case.

    It counts as no slower when the quartiles of the ratio of the two, round by round, reach 1.
    """
    compared = [row for row in rows if row.metric == "ratio to peft"]
    good = [row.lo is not None and row.lo <= 1 for row in compared]
    word = "seen" if all(good) else "partly" if any(good) else "not seen at this scale"
    texts = [f"{row.value:.2f} times peft's step ({row.case.split(',')[0]})" for row in compared]
    return f"{word}: {'; '.join(texts)}."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")
    rows: list[Row] = []
    settings: dict[str, str] = {}
    for case in CASES:
        found, settings[case] = measure(case, options.rounds)
        rows += found
        print(
            *(f"{r.case}: {r.variant}: {r.metric} {r.value} {r.unit or ''}" for r in found),
            sep="\n",
        )
    record = Record(
        record="speed/cpu-step",
        claim="A LoRA step through Graftwork takes no longer than one through peft at its best.",
        command=f"python -m benchmarks.cpu_step --rounds {options.rounds} --threads {options.threads}",
        seeds=[0],
        rows=rows,
        notes=[
            "Processor time of one thread: what other processes do does not count.",
            "Bounds are quartiles over the rounds of one run; a ratio is taken within a round.",
            "The floor goes back to the input; a graft's backward pass stops at its first site.",
            "fp32, rank 8, all linears or all 3 x 3 x 3 convolutions, AdamW fused.",
        ],
        details={
            "threads": options.threads,
            "peft settings tried": list(PEFT),
            "fastest": settings,
        },
        verdict=verdict(rows),
        **environment(),
    )
    print(record.write(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
