"""Generated convolutions through every form that the fast path has, whatever the cost model would choose."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from method_checks import Figures, check_case, error, graft, move, values_for
from method_layers import LAYERS, LayerCase
from method_settings import settings_of
from torch import Tensor, nn

import graftwork as gw
from graftwork.fast import conv_sites
from graftwork.fast.conv import BRANCH, MIXED, WEIGHT

FORMS = (WEIGHT, MIXED, BRANCH)
KINDS = [kind for kind in LAYERS if kind.startswith("conv")]
CASES = 12


# torch's own remark on the base layer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_generated_cases_in_each_form(
    form: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    figures, taken = Figures(), 0
    real = conv_sites.lowrank_conv

    def counted(*args: object) -> Tensor:
        nonlocal taken
        taken += 1
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(conv_sites, "lowrank_conv", counted)
    monkeypatch.setattr(conv_sites, "form_of", lambda *args: form)

    @settings(
        max_examples=2 * CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=LAYERS[kind], method=settings_of("lora"))
    def run(case: LayerCase, method: gw.LoRA) -> None:
        if len(figures.served) >= CASES and not figures.failed:
            return
        before = taken
        if not check_case(method, case, figures):
            reject()
        # what the layer is called with decides: an output size is the one thing that these cases add
        assert (taken > before) == (not case.call)
        check_float32_gradients(method, case, monkeypatch)
        figures.served.add(repr((case, method)))

    run()
    record_property("figures", (f"convolutions in the form {form!r}", figures.numbers()))
    assert len(figures.served) >= CASES // 2


def check_float32_gradients(
    method: gw.LoRA, case: LayerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain autograd in float64 from the same float32 numbers: at most 1e-5 of the largest.

    A gradient whose sum cancels is known no better than plain autograd in float32 knows it.
    """
    values = values_for(method, case)
    assert values is not None
    layer = case.build().float()
    x = case.pooled(case.build()).float()
    found = []
    for dtype, plain in ((torch.float32, False), (torch.float32, True), (torch.float64, True)):
        model = copy.deepcopy(layer)
        made = graft(model, method, case)
        move(made, case, values)
        model = model.to(dtype)
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(conv_sites.FastConv, "call", lambda *args: None)
            found.append(_gradients(model, gw.get(model), x.to(dtype), case))
    for ours, plainly, theirs in zip(*found, strict=True):
        assert error([ours], [theirs]) <= max(1e-5, 2 * error([plainly], [theirs]))


def _gradients(model: nn.Module, made: gw.Graft, x: Tensor, case: LayerCase) -> list[Tensor]:
    x = x.requires_grad_()
    y = model(x, **case.call)
    draw = torch.Generator().manual_seed(case.seed + 5)
    weights = torch.randn(y.shape, dtype=torch.float64, generator=draw).to(y.dtype)
    found = torch.autograd.grad((y * weights).sum(), [x, *made.parameters()])
    return [t.double() for t in found]
