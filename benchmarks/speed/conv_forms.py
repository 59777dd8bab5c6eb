"""What each form of a low-rank convolution costs on a network's own layers, beside what the cost model chooses.

    python -m benchmarks.speed.conv_forms --networks segresnet16 unet
    python -m benchmarks.speed.conv_forms --tiny --device cpu

Every different convolution of a network (kernel 3, as in the vision table) runs alone, at the shape of image that
it has in the network: forward and backward. Weighted by how often each occurs, that gives what a form costs on
the whole network, what the cost model's choice costs, and what the best form of each layer would.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.commands import command_of
from benchmarks.speed.measure import Step, waited
from benchmarks.speed.vision import SETTINGS, Setting, forward, sites
from benchmarks.timing import median_row, take_turns
from graftwork.algebra.conv import Conv
from graftwork.algebra.recognise import recognise
from graftwork.errors import GraftError
from graftwork.fast import conv_sites
from graftwork.fast.conv import BRANCH, MIXED, WEIGHT
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parents[1] / "records" / "speed" / "conv-forms.json"
CONVOLUTIONAL = [name for name, s in SETTINGS.items() if s.layers is nn.Conv3d]
FORMS = (WEIGHT, MIXED, BRANCH)
FROZEN, PLAIN, TRAINED = "frozen", "plain autograd", "trained weight"
#: a choice counts as right when its time is within this part of the best form's
NEAR = 0.05
Shape = tuple[int, ...]


def layers(setting: Setting, options: argparse.Namespace) -> Counter[tuple[Any, ...]]:
    """(arguments of the layer, shape of its input): how often it occurs, from one pass without data."""
    network, x = setting.make(options.tiny)
    network, x = network.to("meta"), x.to("meta")
    found: Counter[tuple[Any, ...]] = Counter()
    for name in sites(network, setting):
        network.get_submodule(name).register_forward_pre_hook(
            lambda m, inputs: found.update([(_arguments(m), tuple(inputs[0].shape))])
        )
    with torch.no_grad():
        network(x)
    return found


def build(arguments: tuple[Any, ...]) -> nn.Conv3d:
    """A layer from what `layers` found."""
    *first, bias = arguments
    return nn.Conv3d(*first, bias=bias)


def _arguments(m: Any) -> tuple[Any, ...]:
    return m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.bias is not None


@contextmanager
def taking(form: str) -> Iterator[None]:
    """While this lasts, every convolution takes this form."""
    chosen, served = conv_sites.form_of, conv_sites.FastConv.call
    if form == PLAIN:
        conv_sites.FastConv.call = lambda *args: None  # type: ignore[method-assign]
    else:
        conv_sites.form_of = lambda *args: form
    try:
        yield
    finally:
        conv_sites.form_of = chosen
        conv_sites.FastConv.call = served  # type: ignore[method-assign]


def steps(
    arguments: tuple[Any, ...], shape: Shape, setting: Setting, options: argparse.Namespace
) -> dict[str, Step]:
    """The layer's steps by variant, on the same numbers."""
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    x = torch.randn(shape, device=options.device, dtype=dtype)

    def layer() -> nn.Module:
        torch.manual_seed(0)
        return build(arguments).to(x)

    out = {
        FROZEN: step(layer().requires_grad_(False), x, setting, options.burst),
        TRAINED: step(layer(), x, setting, options.burst),
    }
    for form in (PLAIN, *FORMS):
        grafted = layer()
        gw.graft(grafted, gw.LoRA(setting.rank), sites=["*"], seed=0, any_rank=True)
        out[form] = step(grafted, x, setting, options.burst, form)
    return out


def step(layer: nn.Module, x: Tensor, setting: Setting, burst: int, form: str = WEIGHT) -> Step:
    """`burst` times forward and backward, with a gradient that is already there."""
    with torch.no_grad():
        dy = torch.randn_like(forward(layer, x, setting))

    def run() -> None:
        for p in layer.parameters():
            p.grad = None
        with taking(form):
            for _ in range(burst):
                leaf = x.detach().requires_grad_()
                forward(layer, leaf, setting).backward(dy)

    return run


def chosen_form(arguments: tuple[Any, ...], shape: Shape, setting: Setting, device: str) -> str:
    """What the cost model takes for this layer."""
    layer = build(arguments)
    geo = recognise(layer)
    assert isinstance(geo, Conv)
    dtype = torch.float32 if setting.precision == "TF32" else torch.bfloat16
    x = torch.empty(1, dtype=dtype, device=device).expand(shape)  # nothing but a shape and a place
    return conv_sites.form_of(geo, setting.rank, x, conv_sites.walk_of(geo, layer).frame)


def measure(name: str, options: argparse.Namespace) -> tuple[list[Row], list[bool]]:
    """Rows of a network, and for each of its layers whether the choice was right."""
    setting = SETTINGS[name]
    rows: list[Row] = []
    totals: dict[str, float] = Counter()
    right: list[bool] = []
    for (arguments, shape), count in sorted(layers(setting, options).items(), key=repr):
        taken = chosen_form(arguments, shape, setting, options.device)
        seconds = take_turns(
            steps(arguments, shape, setting, options),
            rounds=options.rounds,
            warmup=2,
            **({"clock": waited} if options.device == "cuda" else {}),
        )
        case = f"{name}: {arguments[0]} to {arguments[1]}, stride {arguments[3][0]}, {shape[2]}^3"
        seconds = {v: [s / options.burst for s in values] for v, values in seconds.items()}
        medians = {variant: statistics.median(values) for variant, values in seconds.items()}
        best = min(FORMS, key=lambda form: medians[form])
        near = medians[taken] <= (1 + NEAR) * medians[best]
        right.append(near)
        for variant, values in seconds.items():
            note = "chosen" if variant == taken else None
            row = median_row(case, variant, "step", [1000 * v for v in values], "ms")
            rows.append(row.model_copy(update={"note": note}))
            totals[variant] += count * medians[variant]
        totals["as chosen"] += count * medians[taken]
        totals["best of each layer"] += count * medians[best]
        shown = ", ".join(f"{v} {1000 * m:.3g}" for v, m in medians.items())
        print(f"{count} x {case}: {shown} ms; chosen {taken}, best {best}", flush=True)
    for variant, total in totals.items():
        value = float(f"{1000 * total:.5g}")
        rows.append(Row(case=name, variant=variant, metric="all layers", value=value, unit="ms"))
        ratio = float(f"{total / totals[FROZEN]:.4g}")
        rows.append(Row(case=name, variant=variant, metric="ratio to frozen", value=ratio))
        print(f"{name}: {variant}: {value} ms, {ratio} x the frozen layers", flush=True)
    return rows, right


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.conv_forms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--networks", nargs="+", choices=CONVOLUTIONAL, default=CONVOLUTIONAL)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--tiny", action="store_true", help="rehearse in small")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--burst", type=int, default=3, help="steps per figure")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--out", type=Path, help="the record's file")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not cuda:
        print(
            GraftError("--device cuda: torch sees no GPU here; use --device cpu"), file=sys.stderr
        )
        return 2
    rows: list[Row] = []
    right: list[bool] = []
    for name in options.networks:
        found, good = measure(name, options)
        rows += found
        right += good
    share = sum(right) / len(right)
    word = "seen" if share == 1 else "partly" if share > 0 else "not seen at this scale"
    record = Record(
        record="speed/conv-forms",
        claim=f"The cost model takes a form within {NEAR:.0%} of the fastest on every layer.",
        command=command_of("benchmarks.speed.conv_forms", sys.argv[1:] if argv is None else argv),
        seeds=[0],
        rows=rows,
        notes=[
            "A step is the forward and backward pass of one layer alone, without optimizer.",
            "On a GPU the smallest layers show what it takes to issue their work.",
            "Bounds are quartiles over the rounds of one run.",
        ],
        details={k: v for k, v in vars(options).items() if k != "out"},
        verdict=f"{word}: on {sum(right)} of {len(right)} layers.",
        **environment(options.device),
    )
    out = options.out or (None if options.tiny else TARGET)
    if out is not None:
        print(record.write(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
