"""What each product of a low-rank branch takes on a GPU, in the forms that it could have, at the shapes of a network.

    python -m benchmarks.speed.products
    python -m benchmarks.speed.products --tiny --device cpu

The products of one linear layer, forward and backward, each alone in a recorded graph of many, so that the time is
the device's and not the host's. A form's figure is microseconds a call; `frozen` rows are what the floor does too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.commands import command_of
from benchmarks.rows import figure
from benchmarks.timing import median_row
from graftwork.algebra.products import bmm, mm
from graftwork.fast import reads
from graftwork.fast.changed import changed_matrix
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parents[1] / "records" / "speed" / "products.json"
#: (rows, in, out) of the linears of ViT-B/16 at 64 x 224^2, and of a Llama-shaped block at 4 x 2048 tokens
SHAPES = {
    "vit qkv": (12608, 768, 2304),
    "vit proj": (12608, 768, 768),
    "vit fc1": (12608, 768, 3072),
    "vit fc2": (12608, 3072, 768),
    "llama gate": (8192, 2048, 8192),
}
RANK = 16
#: parts of the long dimension that are summed apart
PARTS = (8, 32)
Form = Callable[[], object]


def forms(rows: int, in_: int, out: int, device: str) -> dict[str, Form]:
    """Every form by name, on the same tensors in bfloat16 with float32 gradients of factors."""
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, torch.bfloat16)

    x, dy, w, bias = tensor(rows, in_), tensor(rows, out), tensor(out, in_), tensor(out)
    a, b, p = tensor(RANK, in_), tensor(out, RANK), tensor(rows, RANK)
    y, dx = torch.empty_like(dy), torch.empty_like(x)
    wide, whole = torch.cat([w, a]), torch.cat([bias, bias.new_zeros(RANK)])
    side = x.new_empty(rows, out + RANK)
    wide32 = torch.float32

    def before() -> Tensor:
        return torch.addmm(bias, p, b.t(), out=y).addmm_(x, w.t())

    def folded() -> Tensor:
        torch.addmm(whole, x, wide.t(), out=side)
        return side[:, :out].addmm_(side[:, out:], b.t())

    along_x, along_w = x.new_empty(rows, in_ + RANK), w.new_empty(out, in_ + RANK)
    along_dy, along_wt = x.new_empty(rows, out + RANK), w.new_empty(out + RANK, in_)

    def longer() -> Tensor:
        torch.cat([x, p], 1, out=along_x)
        torch.cat([w, b], 1, out=along_w)
        return torch.addmm(bias, along_x, along_w.t(), out=y)

    def longer_back() -> Tensor:
        torch.cat([dy, p], 1, out=along_dy)
        torch.cat([w, a], out=along_wt)
        return torch.mm(along_dy, along_wt, out=dx)

    found: dict[str, Form] = {
        "frozen y = x W + b": lambda: torch.addmm(bias, x, w.t(), out=y),
        "p = x A": lambda: x.mm(a.t()),
        "y += p B": lambda: y.addmm_(p, b.t()),
        "y = p B + b, then += x W": before,
        "[y p] = x [W A] + b, then y += p B": folded,
        "y = [x p] [W B] + b, copies included": longer,
        "dx = [dy dp] [W; A], copies included": longer_back,
        "frozen dx = dy W": lambda: torch.mm(dy, w, out=dx),
        "dx = dp A, then += dy W": lambda: torch.mm(p, a, out=dx).addmm_(dy, w),
        "dx += dp A": lambda: dx.addmm_(p, a),
        "dp = dy B": lambda: dy.mm(b),
        "dB = dy^T p": lambda: mm(dy.t(), p, wide32),
        "dB in bf16": lambda: dy.t().mm(p),
        "dB^T = p^T dy": lambda: mm(p.t(), dy, wide32),
        "dA = dp^T x": lambda: mm(p.t(), x, wide32),
        "dA in bf16": lambda: p.t().mm(x),
        "dA^T = x^T dp": lambda: mm(x.t(), p, wide32),
        "full dW = dy^T x": lambda: dy.t().mm(x),
    }
    for n in PARTS:
        if rows % n == 0:
            found[f"dA in {n} parts"] = lambda n=n: _parts(p, x, n)  # type: ignore[misc]
            found[f"dB^T in {n} parts"] = lambda n=n: _parts(p, dy, n)  # type: ignore[misc]
    wide_a, wide_b = a.float(), b.float()
    found["W' = W + B A"] = lambda: changed_matrix(w, wide_a, wide_b, 1.0)
    if device == "cuda" and reads.has_triton():
        found["dp and dB in one read"] = lambda: reads._one_read()(dy, b, p, 1.0)
    return found


def _parts(p: Tensor, x: Tensor, n: int) -> Tensor:
    """p^T x, summed over n parts of the rows."""
    left, right = p.view(n, -1, p.shape[1]), x.view(n, -1, x.shape[1])
    return bmm(left.transpose(1, 2), right, torch.float32).sum(0)


def equal_bits(rows: int, in_: int, out: int, device: str) -> bool:
    """Whether x W + b, added to b, is torch's own x W + b bit for bit."""
    draw = torch.Generator().manual_seed(1)
    x, w, bias = (
        torch.randn(s, generator=draw).to(device, torch.bfloat16)
        for s in ((rows, in_), (out, in_), (out,))
    )
    zero = x.new_zeros(rows, RANK)
    start = torch.addmm(bias, zero, zero.new_zeros(RANK, out))
    same = torch.equal(start.addmm_(x, w.t()), torch.nn.functional.linear(x, w, bias))
    return bool(same)


def microseconds(form: Form, device: str, repeats: int, rounds: int) -> list[float]:
    """Microseconds a call, of `rounds` replays of `repeats` calls each; on a CPU without a graph."""
    for _ in range(3):
        form()

    def many() -> None:
        for _ in range(repeats):
            form()

    if device != "cuda":
        begun = time.process_time()
        many()
        return [1e6 * (time.process_time() - begun) / repeats] * 2
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        many()
    graph.replay()
    out = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        out.append(1000 * begin.elapsed_time(end) / repeats)
    return out


def main(argv: list[str] | None = None) -> int:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.products",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--tiny", action="store_true", help="rehearse in small")
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--repeats", type=int, default=20, help="calls a figure")
    parser.add_argument("--rounds", type=int, default=7, help="figures a form, at least 2")
    parser.add_argument("--out", type=Path, help="the record's file")
    options = parser.parse_args(argv)
    begun, rows = time.perf_counter(), list[Row]()
    for name in options.shapes:
        shape = (64, 32, 48) if options.tiny else SHAPES[name]
        case = f"{name}: {shape[0]} rows, {shape[1]} to {shape[2]}"
        for variant, form in forms(*shape, options.device).items():
            try:
                spent = microseconds(form, options.device, options.repeats, options.rounds)
                rows.append(median_row(case, variant, "time", spent, "us"))
            except RuntimeError as error:
                note = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                rows.append(figure(case, variant, "time", None, "us", note))
            print(f"{case}: {variant}: {rows[-1].value} us {rows[-1].note or ''}", flush=True)
        same = equal_bits(*shape, options.device)
        rows.append(figure(case, "b first", "equal bits", float(same)))
        print(f"{case}: b first: equal bits {same}", flush=True)
    argv = sys.argv[1:] if argv is None else argv
    record = Record(
        record="speed/products",
        claim="What each product of a low-rank branch takes.",
        command=command_of("benchmarks.speed.products", argv),
        seeds=[0],
        seconds=round(time.perf_counter() - begun, 1),
        rows=rows,
        notes=["Medians over the rounds with quartiles; many calls in one recorded graph each."],
        details=_details(options),
        verdict="seen: times of single products, no claim.",
        **environment(options.device),
    )
    out = options.out or (None if options.tiny or options.device != "cuda" else TARGET)
    if out is not None:
        print(record.write(out))
    return 0


def _details(options: argparse.Namespace) -> dict[str, Any]:
    return {"rank": RANK, "repeats": options.repeats, "shapes": options.shapes}


if __name__ == "__main__":
    sys.exit(main())
