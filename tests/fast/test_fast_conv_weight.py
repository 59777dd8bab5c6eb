"""The changed weight of a low-rank convolution: in half precision no update is lost, and none moves nothing."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra.conv import Conv
from graftwork.fast import conv_sites
from graftwork.fast.conv import BRANCH, WEIGHT
from graftwork.fast.conv_weight import changed, project, representable, thresholds

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("autocast", [False, True])
def test_updates_far_below_a_step_of_half_precision_arrive(
    dtype: torch.dtype, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of a small change that the output shows, by form: all of it only where rounding is spread."""
    torch.manual_seed(0)
    layer = nn.Conv3d(16, 16, 3, padding=1).to(dtype)
    if autocast:  # a float32 base whose numbers are those of a half precision
        layer = layer.float()
    x = torch.randn(1, 16, 10, 10, 10).to(layer.weight.dtype)
    shown = {}
    for form in (WEIGHT, BRANCH):
        monkeypatch.setattr(conv_sites, "form_of", lambda *args, form=form: form)
        model = copy.deepcopy(layer)
        graft = gw.graft(model, gw.LoRA(4), sites=["*"], seed=0)
        step = torch.finfo(dtype).eps * layer.weight.double().abs().mean()
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=autocast):
            before = model(x).double()
            for n, p in graft.named_parameters():
                if n.endswith("B"):
                    p.normal_()
            state = model._modules["_graft"].state("default")  # type: ignore[union-attr,operator]
            change = state.delta(model).weight.double()
            for n, p in graft.named_parameters():
                if n.endswith("B"):
                    p.mul_(0.03 * step / change.abs().mean())
            change = state.delta(model).weight.double()
            assert change.abs().mean() < 0.05 * step
            exact = nn.functional.conv3d(x.double(), change, padding=1)
            seen = model(x).double() - before
        shown[form] = float((seen * exact).sum() / exact.square().sum())
    assert abs(shown[WEIGHT] - 1) < 0.15
    assert shown[BRANCH] < 0.5  # what adding to a rounded output leaves of it


@given(
    inputs=st.integers(1, 64),
    kernel=st.integers(1, 3),
    part=st.floats(-1, 1),
    dtype=st.sampled_from(HALVES),
)
def test_a_row_moves_by_what_it_should(
    inputs: int, kernel: int, part: float, dtype: torch.dtype
) -> None:
    geo = Conv(out=2, in_=inputs, kernel=(kernel,) * 2, stride=(1, 1), padding=(0, 0))
    weight = torch.full(geo.weight_shape(), 1.5).to(dtype)  # away from where the step changes
    spread = thresholds(geo, dtype, weight.device)
    assert spread is not None
    step = torch.finfo(dtype).eps
    a, b = torch.full((1, inputs, kernel, kernel), part * step), torch.ones(2, 1, 1, 1)
    nothing = changed(geo, weight, a, torch.zeros_like(b), 1.0, spread)
    assert nothing.dtype == dtype and torch.equal(nothing, weight)
    new = changed(geo, weight, a, b, 1.0, spread)
    moved = (new.double() - weight.double()) / step
    assert set(moved.unique().tolist()) <= {0.0, 1.0 if part > 0 else -1.0}
    n = inputs * kernel**2
    # the discrepancy of golden-ratio multiples: below 1 + log2(n) of n
    assert (moved.sum((1, 2, 3)) - n * part).abs().max() <= 1 + torch.log2(torch.tensor(n + 1.0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own imports
def test_a_compiler_that_fuses_casts_rounds_the_base_as_it_is_rounded() -> None:
    assert shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"), (
        "torch.compile on a CPU needs a C++ compiler: apt-get install g++"
    )
    torch._dynamo.reset()
    geo = Conv(out=4, in_=3, kernel=(3, 3), stride=(1, 1), padding=(0, 0))
    weight = torch.randn(geo.weight_shape(), generator=torch.Generator().manual_seed(0))
    a, b = torch.ones(2, 3, 3, 3), torch.zeros(4, 2, 1, 1)
    spread = thresholds(geo, torch.bfloat16, weight.device)

    @torch.compile(fullgraph=True)
    def under_autocast(weight: Tensor) -> Tensor:
        return changed(geo, weight.to(torch.bfloat16), a, b, 1.0, spread)

    assert torch.equal(under_autocast(weight), weight.to(torch.bfloat16))


@pytest.mark.parametrize("coarse", [False, True])
def test_under_autocast_small_updates_of_a_wide_weight_survive(coarse: bool) -> None:
    """Updates of a tenth of a step: by the thresholds where W has no lower bits, and by these where it has."""
    torch.manual_seed(0)
    model = nn.Conv3d(8, 8, 3, padding=1, bias=False)
    if coarse:
        with torch.no_grad():
            model.weight.copy_(model.weight.bfloat16())
    assert representable(model.weight, torch.bfloat16) == coarse
    gw.graft(model, gw.LoRA(2), seed=0)
    x = torch.randn(2, 8, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        plain = nn.functional.conv3d(x, model.weight.detach(), padding=1)
        assert torch.equal(model(x), plain)  # at the start, bit for bit
    a, b = (p for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        b.normal_(std=0.1 * torch.finfo(torch.bfloat16).eps * float(model.weight.detach().std()))
        a.normal_()
        change = (b.flatten(1) @ a.flatten(1)).view_as(model.weight)
    exact = nn.functional.conv3d(x.bfloat16().double(), change.double(), padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        seen = model(x).detach().double() - plain.double()
    shown = float((seen * exact).sum() / exact.square().sum())
    assert abs(shown - 1) < 0.35  # outputs are rounded too, which hides much of so little


@given(
    out=st.integers(1, 5), inputs=st.integers(1, 5), kernel=st.integers(1, 3), rank=st.integers(1, 3)
)  # fmt: skip
def test_memory_order_changes_no_number(out: int, inputs: int, kernel: int, rank: int) -> None:
    geo = Conv(out=out, in_=inputs, kernel=(kernel,) * 3, stride=(1,) * 3, padding=(0,) * 3)
    draw = torch.Generator().manual_seed(0)
    weight, d = (torch.randn(geo.weight_shape(), generator=draw) for _ in range(2))
    a = torch.randn(rank, inputs, *geo.kernel, generator=draw)
    b = torch.randn(out, rank, 1, 1, 1, generator=draw)
    last = {"memory_format": torch.channels_last_3d}
    expected = changed(geo, weight, a, b, 0.5, None), *project(geo, d, a, b, 0.5)
    found = (
        changed(geo, weight.to(**last), a.to(**last), b, 0.5, None),
        *project(geo, d.to(**last), a, b, 0.5),
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0].is_contiguous(**last)
    narrow = changed(geo, weight, a, torch.zeros_like(b), 1.0, None, torch.bfloat16)
    assert torch.equal(narrow, weight.bfloat16())


def test_factors_lie_in_memory_as_the_weight_does() -> None:
    last = {"memory_format": torch.channels_last_3d}
    plain, other = nn.Conv3d(3, 4, 3), nn.Conv3d(3, 4, 3).to(**last)
    other.load_state_dict(plain.state_dict())
    grafts = [gw.graft(layer, gw.LoRA(2), seed=0) for layer in (plain, other)]
    (a, _), (a_last, b_last) = (list(graft.parameters()) for graft in grafts)
    assert torch.equal(a, a_last)
    assert a.is_contiguous() and a_last.is_contiguous(**last) and not a_last.is_contiguous()
    x = torch.randn(1, 3, 4, 4, 4)
    (other(x) * x.mean()).sum().backward()
    assert b_last.grad is not None and b_last.grad.abs().sum() > 0
