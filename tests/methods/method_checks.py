"""What every case of every method must show; the figures that it saw.

For each dtype: the start is the base bit for bit; forward = merged forward = the equations by hand in
float64 on the same rounded tensors; merging gives back every bit. In float64 also the gradients.

Errors are relative to max|y|, taken over at least `POOL` outputs of the same layer. In half
precision the limit is the base layer's own error, measured on those outputs, times four; its own error
counts as at least what rounding an exact output may cost.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import method_layers_attention  # noqa: F401  registers its layers
import torch
from method_by_hand import REFERENCES, ByHand
from method_layers import LayerCase
from torch import Tensor, nn

import graftwork as gw
from graftwork.methods.base import Method

for _file in sorted(Path(__file__).parent.glob("method_by_hand_*.py")):
    import_module(_file.stem)  # registers its references

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
HALVES = (torch.bfloat16, torch.float16)
#: shares that are nearer to each other are the same to float32
MARGIN = 1e-5
#: half precision: at most this many times the base layer's own error
TIMES_BASE = 4.0


class Values(NamedTuple):
    """Trained values: normal noise of this size on top of the start, the `draw`-th of its seed."""

    size: float
    draw: int


@dataclass
class Figures:
    """What a run of cases saw: worst errors by dtype, and how many cases ran or were refused."""

    served: set[str] = field(default_factory=set)
    refused: int = 0
    failed: bool = False
    worst: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: cases that a dtype could not run because the base layer itself cannot
    base_cannot: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def see(self, what: str, value: float) -> None:
        self.worst[what] = max(self.worst[what], value)

    def numbers(self) -> dict[str, int | float]:
        """Counts as whole numbers, worst errors as floats."""
        counts = {"pairs": 1, "served": len(self.served), "refused": self.refused}
        return {**counts, **self.base_cannot, **self.worst}


def graft(model: nn.Module, method: Method, case: LayerCase) -> gw.Graft:
    """Graft the case's layer, with the case's own start values; at any rank, as files may bring."""
    torch.default_generator.manual_seed(case.seed)  # graft's own `seed` does it too, far slower
    return gw.graft(model, method, sites=[case.site], any_rank=True)


def move(made: gw.Graft, case: LayerCase, values: Values) -> None:
    """Give the trained tensors values away from their start."""
    rng = torch.Generator().manual_seed(case.seed + 3 + values.draw)
    with torch.no_grad():
        for _, p in made.named_parameters():
            noise = torch.randn(p.shape, generator=rng, dtype=torch.float64)
            p.add_((values.size * noise).to(p))


def tensors_of(made: gw.Graft, case: LayerCase) -> dict[str, Tensor]:
    """The graft's tensors in float64, without the site's name."""
    prefix = f"{case.site}." if case.kind == "block" else ""
    return {n.removeprefix(prefix): t.double() for n, t in made.tensors().items()}


def reference(made: gw.Graft, layer: nn.Module, p: dict[str, Tensor]) -> ByHand | None:
    build = REFERENCES.get(made.method.id)
    return None if build is None else build(made.method, layer, p)


def cancels(hand: ByHand, case: LayerCase, x: Tensor) -> bool:
    """Whether the terms of the method's sum are larger than max|y|, so that they take each other away.

    The limits are relative to max|y|. Where terms of size 1 add up to 0.01, every arithmetic that rounds
    the terms is off by a hundred roundings, the frozen layer's plus a bias too; no such values are drawn.
    """
    with torch.no_grad():
        largest = hand.forward(x, **case.call).pow(2).max()
        return bool(hand.energy(x, **case.call).max() > 1.5 * largest)


def close_call(hand: ByHand, inputs: list[Tensor], dtype: torch.dtype) -> bool:
    """Whether a gate of the method is so near its threshold that float32's rounding decides.

    A whole vector or expert then comes or goes, which no limit on errors allows for; no such values are drawn.
    """
    if hand.margin is None:
        return False
    some = [_cast(x, dtype).double() for x in inputs if x.numel() > 0]
    return any(float(hand.margin(x)) < MARGIN for x in some)


def tells_nothing(method: Method, case: LayerCase, layer: nn.Module, values: Values) -> bool:
    """Whether on this layer these values cancel or make a close call."""
    made = graft(copy.deepcopy(layer), method, case)
    move(made, case, values)
    dtype = layer_dtype(layer)
    p = {n: t.to(dtype).double() for n, t in tensors_of(made, case).items()}
    wide = copy.deepcopy(layer).double()
    hand = reference(made, wide, p)
    assert hand is not None
    pooled = case.pooled(wide)
    return cancels(hand, case, pooled) or close_call(hand, [case.inputs(), pooled], dtype)


def layer_dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def values_for(method: Method, case: LayerCase) -> Values | None:
    """Trained values whose terms do not cancel and whose gates are decided, the largest of a few draws.

    `None` if there are none.
    """
    if method.id not in REFERENCES:
        return Values(0.1, 0)
    # starts that are drawn are others in another dtype
    layers = [case.build().to(dtype) for dtype in (torch.float64, torch.float32, *HALVES)]
    for draw in range(12):
        values = Values(0.5 ** (1 + draw / 2), draw)
        if not any(tells_nothing(method, case, layer, values) for layer in layers):
            return values
    return None


def check_case(method: Method, case: LayerCase, figures: Figures) -> bool:
    """All the properties of one case, in every dtype that the base layer itself can run.

    Returns whether there were values to check it with.
    """
    figures.failed, before = True, figures.failed
    values = values_for(method, case)
    if values is None:
        return False
    for dtype in (torch.float64, torch.float32, *HALVES):
        base = case.build().to(dtype)
        with _kernels(case, dtype):
            if not _runs(base, case, dtype):
                figures.base_cannot[f"base cannot {_name(dtype)}"] += 1
                continue
            _check_dtype(method, case, base, dtype, values, figures)
    check_gradients(method, case, values, figures)
    figures.failed = before
    return True


def _runs(base: nn.Module, case: LayerCase, dtype: torch.dtype) -> bool:
    try:
        base(_cast(case.inputs(), dtype), **case.call)
    except (RuntimeError, NotImplementedError):
        return False
    return True


@contextlib.contextmanager
def _kernels(case: LayerCase, dtype: torch.dtype) -> Iterator[None]:
    """torch's own kernels for convolutions in half precision: with AMX, oneDNN's give wrong values or crash on some
    shapes, of the base layer alone too (torch 2.14).
    """
    if dtype not in HALVES or not case.kind.startswith("conv"):
        yield
        return
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # the public switch warns about another setting
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _check_dtype(
    method: Method,
    case: LayerCase,
    base: nn.Module,
    dtype: torch.dtype,
    values: Values,
    seen: Figures,
) -> None:
    wide = copy.deepcopy(base).double()
    model = copy.deepcopy(base)
    made = graft(model, method, case)
    inputs = [_cast(case.inputs(), dtype), _cast(case.pooled(case.build()), dtype)]
    with torch.no_grad():
        plain = [base(x, **case.call) for x in inputs]
        for x, y in zip(inputs, plain, strict=True):
            if method.starts_at_base:
                assert torch.equal(model(x, **case.call), y), f"{dtype}: the start is not the base"
        move(made, case, values)
        for p in made.parameters():
            p.copy_(p.to(dtype))  # the same rounded factors for every form
        hand = reference(made, wide, tensors_of(made, case))
        forms = {"forward": [model(x, **case.call) for x in inputs]}
        before = {n: t.clone() for n, t in base.state_dict().items()}
        if method.mergeable:
            made.merge()
            forms["merged"] = [model(x, **case.call) for x in inputs]
            made.unmerge()
        else:
            _refuses_merge(made)
        made.remove()
        after = model.state_dict()
        assert all(torch.equal(before[n], after[n]) for n in before), f"{dtype}: base bits changed"
        if hand is None:  # a method without a reference of its own: its two forms check each other
            targets = [y.double() for y in forms.get("merged", forms["forward"])]
        else:
            targets = [hand.forward(_cast(x, torch.float64), **case.call) for x in inputs]
    limit, unit = LIMITS.get(dtype, TIMES_BASE), 1.0
    if dtype in HALVES:
        unit = own_error(base, inputs[1], case)
    for form, outputs in forms.items():
        for y, like in zip(outputs, plain, strict=True):
            assert y.dtype == like.dtype and y.shape == like.shape
        found = error(outputs, targets) / unit
        seen.see(f"{form} {_name(dtype)}", found)
        assert found <= limit, f"{form} in {dtype}: error {found:.3g}, limit {limit:.3g}"


def own_error(base: nn.Module, x: Tensor, case: LayerCase) -> float:
    """The base layer's rounding error in its dtype.

    Relative to max|y| it depends on where in its power of two the largest output lies, by a factor of
    two; so it is the largest over layers whose tensors are scaled by 2^(0/8), ..., 2^(7/8). It is at
    least one rounding of the largest output, eps / 2: a lookup rounds nothing, and of few outputs all may by
    chance lie near what the dtype can hold, which says nothing about sums of them.
    """
    worst = torch.finfo(x.dtype if x.is_floating_point() else layer_dtype(base)).eps / 2
    scaled, wide = copy.deepcopy(base), copy.deepcopy(base).double()
    trios = list(zip(base.parameters(), scaled.parameters(), wide.parameters(), strict=True))
    with torch.no_grad():
        for eighth in range(8):
            for p, half, exact in trios:
                exact.copy_(half.copy_(p * 2 ** (eighth / 8)))
            target = wide(_cast(x, torch.float64), **case.call)
            worst = max(worst, error([scaled(x, **case.call)], [target]))
    return worst


def error(outputs: list[Tensor], targets: list[Tensor]) -> float:
    """Largest error over max|y|, both over all outputs."""
    largest = max((float(t.abs().max()) for t in targets if t.numel()), default=0.0)
    worst = max(
        (
            float((y.double() - t).abs().max())
            for y, t in zip(outputs, targets, strict=True)
            if t.numel()
        ),
        default=0.0,
    )
    if worst == 0:
        return 0.0
    return worst / largest if largest > 0 else float("inf")


def _refuses_merge(made: gw.Graft) -> None:
    try:
        made.merge()
    except gw.GraftError as e:
        assert made.method.id in str(e)
        return
    raise AssertionError(f"{made.method.id} merged although it changes activations")


def check_gradients(method: Method, case: LayerCase, values: Values, seen: Figures) -> None:
    """Gradients of the graft's tensors and of the input against autograd through the dense layer."""
    layer = case.build()
    model = copy.deepcopy(layer)
    made = graft(model, method, case)
    move(made, case, values)
    prefix = f"{case.site}." if case.kind == "block" else ""
    trained = [n.removeprefix(prefix) for n, _ in made.named_parameters()]
    p = {n: t.clone().requires_grad_(n in trained) for n, t in tensors_of(made, case).items()}
    hand = reference(made, layer, p)
    if hand is None:
        return
    x = case.inputs()
    if x.numel() == 0:
        return
    x, x_hand = (x, x) if case.tokens else (t.requires_grad_() for t in (x, x.clone()))
    y = model(x, **case.call)
    weights = torch.randn(
        y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(case.seed + 4)
    )
    (y * weights).sum().backward()
    (hand.forward(x_hand, **case.call) * weights).sum().backward()
    pairs = [(q.grad, p[n].grad) for n, q in zip(trained, made.parameters(), strict=True)]
    if not case.tokens:
        pairs.append((x.grad, x_hand.grad))
    assert trained and all(a is not None for a, _ in pairs), "a trained tensor has no gradient"
    ours = [a for a, _ in pairs]
    theirs = [torch.zeros_like(a) if b is None else b for a, b in pairs]
    # a gradient is compared with the largest of its kind: one entry may be zero by symmetry
    found = error(ours, theirs)
    seen.see("gradient float64", found)
    assert found <= 1e-10, f"gradient: error {found:.3g}"


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
