"""Do the fast forms compute what plain autograd does, on this device and in each precision? One command.

    python -m benchmarks.speed --check                  # writes benchmarks/records/speed/check.json
    python -m benchmarks.speed --check --tiny --device cpu

Layers of generated shapes that read one input are trained for a few steps by the fast forms. Output and gradients are
compared with plain autograd in float64 on the same numbers; in half precision the yardstick is the error that plain
autograd makes there. The Triton kernel that is off by default is forced on in rows of its own, so that a record says
whether it may be switched on; on a GPU it and the passes over channels are timed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.fast import channels, linear, reads
from graftwork.fast import sites as fast_sites
from graftwork.methods.base import Method
from graftwork_runs import Record, Row, environment

CLAIM = "The fast forms of linear layers agree with plain autograd on this device, and start at the base bit for bit."
NOTES = [
    "error: of outputs and gradients against plain autograd in float64, over the largest number of each; worst of all.",
    "times plain: the error over that of plain autograd in the same half precision; at most 4.",
    "one read: with the Triton kernel forced on wherever its shapes allow it, however small.",
    "changed weight: layers that run alone, through W + s B A, which is kept; weight made once: made for each product.",
    "recorded: a step replayed from a CUDA graph after the factors have changed.",
]
#: of an error in float32; in half precision, times plain autograd's
LIMIT, TIMES = 1e-5, 4.0
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Readers(nn.Module):
    """Layers that read one input, and one that reads what they give."""

    def __init__(self, width: int, outs: list[int], bias: bool) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(width, n, bias) for n in outs)
        self.last = nn.Linear(sum(outs), width, bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.cat([layer(x) for layer in self.first], -1).tanh())
        return y


class Problem:
    """Readers with a graft that has moved, and a batch, drawn from a seed."""

    def __init__(self, seed: int, method: Method, dtype: torch.dtype, device: str, tiny: bool):
        draw = random.Random(seed)
        unit = 16 if tiny else 64
        width = unit * draw.choice([1, 2, 3, 4] if tiny else [2, 5, 16, 32])
        self.outs = [unit * draw.choice([1, 2, 4, 12]) for _ in range(draw.choice([1, 2, 3]))]
        torch.manual_seed(seed)
        self.base = Readers(width, self.outs, draw.random() < 0.5)
        self.base = self.base.to(device, dtype).requires_grad_(False)
        self.model = copy.deepcopy(self.base)
        rows = draw.choice([(3, 7), (33,), (2, 5, 4)] if tiny else [(4, 300), (515,), (2, 64, 9)])
        self.x = torch.randn(*rows, width).to(device, dtype)
        with torch.no_grad():
            started = self.base(self.x)
            self.graft = gw.graft(self.model, method, seed=seed)
            # alone, then as a family; the second also without gradients
            self.starts_at_base = torch.equal(self.model(self.x), started)
        self.starts_at_base &= all(torch.equal(self.model(self.x), started) for _ in range(2))
        self.move(seed)

    def move(self, seed: int) -> None:
        """Other numbers in the graft, a twentieth of the layers' own size and representable in half precision."""
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.graft.parameters():
                more = 0.05 * torch.randn(p.shape, generator=draw).to(p)
                p.copy_((p + more).to(self.x.dtype))

    def step(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """Output, gradient of the input and of every trained tensor."""
        leaf = x.detach().clone().requires_grad_()
        y = model(leaf)
        weights = torch.linspace(-1, 1, y.numel(), device=y.device).to(y.dtype).view(y.shape)
        own = list(gw.get(model).parameters())
        return [y.detach(), *torch.autograd.grad((y * weights).sum(), [leaf, *own])]

    def exact(self) -> list[Tensor]:
        """The same by plain autograd in float64."""
        with plain_form():
            return self.step(copy.deepcopy(self.model).double(), self.x.double())


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """Everything through plain autograd."""
    with mock.patch.object(fast_sites, "plain", lambda x: False):
        yield


@contextlib.contextmanager
def one_read() -> Iterator[None]:
    """The one pass over dy wherever it is possible."""
    with mock.patch.object(reads, "allowed", True), mock.patch.object(reads, "LARGE", 0):
        yield


@contextlib.contextmanager
def changed_weight() -> Iterator[None]:
    """The changed weight wherever a layer runs alone, however large it is beside its input."""
    with mock.patch.object(linear, "pays", lambda x, weight: True):
        yield


@contextlib.contextmanager
def made_once() -> Iterator[None]:
    """A changed weight for every product, made for it and dropped."""
    with (
        mock.patch.object(linear, "pays", lambda x, weight: False),
        mock.patch.object(linear, "pays_once", lambda rows, columns, weight: True),
    ):
        yield


#: ways through the changed weight
CHANGED = {"changed weight": changed_weight, "weight made once": made_once}
BLOCKS = {"one read": one_read, **CHANGED}


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest error of any tensor over the largest number in it; not a number: infinite."""
    worst = 0.0
    for one, two in zip(found, exact, strict=True):
        size = float(two.abs().max()) or 1.0
        e = float((one.double() - two).abs().max()) / size
        worst = max(worst, e if e == e else float("inf"))
    return worst


def compared(problem: Problem, work: Callable[[], list[Tensor]]) -> tuple[float, float]:
    """The worst error of `work` over a few changes of the factors, and that of plain autograd in the same precision."""
    worst = plain = 0.0
    for turn in range(4):  # alone, then as a family, then with other factors
        if turn > 1:
            problem.move(turn)
        exact = problem.exact()
        worst = max(worst, error(work(), exact))
        with plain_form():
            plain = max(plain, error(problem.step(problem.model, problem.x), exact))
    return worst, plain


def recorded(problem: Problem) -> Callable[[], list[Tensor]]:
    """A step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            problem.step(problem.model, problem.x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = problem.step(problem.model, problem.x)

    def replay() -> list[Tensor]:
        graph.replay()
        return [t.clone() for t in kept]

    return replay


def methods(tiny: bool) -> dict[str, Method]:
    """What is checked, by name."""
    found: dict[str, Method] = {
        "LoRA 16": gw.LoRA(16),
        "LoRA 16, alpha 24": gw.LoRA(16, alpha=24.0),
        "DoRA 16": gw.DoRA(16),
        "DiaBlo 16": gw.DiaBlo(16),
    }
    return found if tiny else {**found, "LoRA 64": gw.LoRA(64), "LoRA 3": gw.LoRA(3)}


def check(options: argparse.Namespace, command: str) -> Record:
    """Every method in every precision and way, a row each; what raises has a row that says so, and the rest goes on."""
    begun, rows = time.perf_counter(), list[Row]()
    cuda = options.device == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = False
    # the sums of a product of half precisions are compared, not cuBLAS's freedom to round them in between
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    seeds = range(2 if options.tiny else 6)
    # what fails while it is recorded may take what follows with it, so that comes last
    ways = ("fast", "one read", *CHANGED, "recorded") if cuda else ("fast", *CHANGED)
    named, precisions = methods(options.tiny).items(), PRECISIONS.items()
    for way in ways:
        for (name, method), (precision, dtype) in itertools.product(named, precisions):
            if dtype is torch.float16 and not cuda:
                continue
            if way == "one read" and not _has_one_read(method, dtype):
                continue
            if way in CHANGED and type(method) is not gw.LoRA:
                continue
            case = f"{name}, {precision}"
            for row in _worst([_row(case, way, seed, method, dtype, options) for seed in seeds]):
                rows.append(row)
                value = row.note if row.value is None else f"{row.value:.3g}"
                print(f"{row.case}: {row.variant}: {row.metric} {value}", flush=True)
        if way == "one read":
            rows += _timed()
    return Record(
        record="speed/check",
        claim=CLAIM,
        command=command,
        seeds=list(seeds),
        seconds=round(time.perf_counter() - begun, 1),
        rows=rows,
        notes=NOTES,
        verdict=verdict(rows),
        **environment(options.device),
    )


def _has_one_read(method: Method, dtype: torch.dtype) -> bool:
    ranks = (16, 32, 64)
    return dtype.itemsize == 2 and reads.has_triton() and getattr(method, "rank", 0) in ranks


def _row(
    case: str, way: str, seed: int, method: Method, dtype: torch.dtype, options: Any
) -> list[Row]:
    try:
        problem = Problem(seed, method, dtype, options.device, options.tiny)
        eager = functools.partial(problem.step, problem.model, problem.x)
        run = recorded(problem) if way == "recorded" else eager
        with BLOCKS.get(way, contextlib.nullcontext)():
            found, plain = compared(problem, run)
        out = [Row(case=case, variant=way, metric="error", value=found)]
        if dtype is not torch.float32:
            out.append(Row(case=case, variant=way, metric="times plain", value=found / plain))
        same = float(problem.starts_at_base)
        return [*out, Row(case=case, variant=way, metric="starts at the base", value=same)]
    except Exception as failed:
        text = f"seed {seed}: {type(failed).__name__}: {(str(failed).splitlines() or [''])[0]}"
        return [Row(case=case, variant=way, metric="error", value=None, note=text[:300])]


def _worst(found: list[list[Row]]) -> list[Row]:
    """One row a metric: the worst over the seeds, and each failure."""
    out: list[Row] = []
    flat = [row for rows in found for row in rows]
    for metric in dict.fromkeys(row.metric for row in flat):
        measured = [r for r in flat if r.metric == metric and r.value is not None]
        pick = min if metric == "starts at the base" else max
        if measured:
            worst = pick(measured, key=lambda r: r.value or 0.0)
            out.append(worst.model_copy(update={"n": len(measured)}))
        out += [r for r in flat if r.metric == metric and r.value is None]
    return out


def agrees(row: Row) -> bool:
    """Whether a row is within its limit."""
    if row.metric == "times plain":
        return row.value is not None and row.value <= TIMES
    if row.metric == "starts at the base":
        return row.value == 1.0
    half = not row.case.endswith("fp32")
    return row.value is not None and (half or row.value <= LIMIT)


def verdict(rows: list[Row]) -> str:
    """How many rows are within their limits, and those that are not."""
    judged = [r for r in rows if r.metric != "ms"]
    wrong = [r for r in judged if not agrees(r)]
    said = "; ".join(f"{r.case}, {r.variant}: {r.metric} {r.note or r.value}" for r in wrong[:8])
    if not wrong:
        return f"seen: all {len(judged)} rows within their limits."
    word = "partly" if len(wrong) < len(judged) else "not seen at this scale"
    return f"{word}: {len(wrong)} of {len(judged)} rows are not within their limits: {said}."


def _timed() -> list[Row]:
    """Milliseconds of the passes that have a choice, at sizes of a language model's layers."""
    out: list[Row] = []
    for columns in (2048, 8192):
        dy, l = (torch.randn(8192, columns, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        b = torch.randn(columns, 16, device="cuda", dtype=torch.bfloat16)
        p = torch.randn(8192, 16, device="cuda", dtype=torch.bfloat16)
        g = torch.randn(columns, device="cuda")
        works: dict[str, Callable[[], object]] = {
            "dy B and dy^T p": lambda dy=dy, b=b, p=p: reads.both(dy, b, p, 1.0, True, torch.float32),
            "x g": lambda l=l, g=g: channels.scaled(l, g),
            "sum dy l": lambda dy=dy, l=l, g=g: channels.column_dots(dy, l, g),
        }  # fmt: skip
        others = {"dy B and dy^T p": one_read, "x g": _plain_passes, "sum dy l": _plain_passes}
        for name, work in works.items():
            case = f"{name}, 8192 x {columns}"
            for variant, way in (("default", contextlib.nullcontext), ("other", others[name])):
                try:
                    with way():
                        value, note = _milliseconds(work), None
                except Exception as failed:
                    value, note = None, f"{type(failed).__name__}: {failed}"[:300]
                out.append(Row(case=case, variant=variant, metric="ms", value=value, note=note))
                print(f"{case}: {variant}: ms {note if value is None else value}", flush=True)
    return out


@contextlib.contextmanager
def _plain_passes() -> Iterator[None]:
    with mock.patch.object(channels, "_batch_norms", lambda x, g: False):
        yield


def _milliseconds(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(20):
        work()
    end.record()
    torch.cuda.synchronize()
    return round(begin.elapsed_time(end) / 20, 4)
