"""The reach check: it names what is never called or never trained, and leaves no trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import net, picture, stir, tokens


class Branches(nn.Module):
    """`fc` sits twice at different depths; parts of it run in one mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.inner = nn.Sequential()
        self.inner.add_module("fc", nn.Linear(4, 4))
        self.train_only, self.eval_only = nn.Linear(4, 4), nn.Linear(4, 4)
        self.detached = nn.Linear(4, 4)
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.drop(self.inner(x)))
        x = x + (self.train_only(x) if self.training else self.eval_only(x))
        return x + self.detached(x).detach()


def test_it_names_what_is_never_called_in_which_mode() -> None:
    model = Branches()
    gw.graft(model, gw.LoRA(2), sites="type:Linear")
    with pytest.raises(gw.GraftError) as error:
        gw.check_reach(model, torch.randn(3, 4))
    lines = set(map(str.strip, str(error.value).splitlines()[1:]))
    assert lines == {
        "fc (default): not reached in training mode",  # not fooled by inner.fc
        "fc (default): not reached in eval mode under no_grad",
        "fc (default): A has no gradient",
        "fc (default): B has no gradient",
        "train_only (default): not reached in eval mode under no_grad",
        "eval_only (default): not reached in training mode",
        "eval_only (default): A has no gradient",
        "eval_only (default): B has no gradient",
        "detached (default): A has no gradient",
        "detached (default): B has no gradient",
    }


def test_it_passes_through_a_wrapper_and_for_a_bare_layer() -> None:
    model = net()
    gw.graft(model, gw.LoRA(2), also_train=["norm", gw.NewRows("head")])
    gw.check_reach(nn.Sequential(model, nn.Softmax(-1)), tokens())
    layer = nn.Linear(3, 3)
    gw.graft(layer, gw.LoRA(1))
    gw.check_reach(layer, torch.randn(2, 3))


def test_only_active_grafts_count() -> None:
    model = Branches()
    gw.graft(model, gw.LoRA(2), sites="fc", name="lost")
    gw.graft(model, gw.LoRA(2), sites="inner.fc", name="good")
    gw.check_reach(model, torch.randn(3, 4))
    gw.activate(model, {"lost": 0.5, "good": 0.5})
    with pytest.raises(gw.GraftError, match=r"fc \(lost\): not reached"):
        gw.check_reach(model, torch.randn(3, 4))
    gw.activate(model, None)
    with pytest.raises(gw.GraftError, match="no active graft"):
        gw.check_reach(model, torch.randn(3, 4))
    with pytest.raises(gw.GraftError, match="no active graft"):
        gw.check_reach(nn.Linear(3, 3), torch.randn(3, 3))


@pytest.mark.parametrize("method", [gw.LoRA(2), gw.NormAffine(), gw.BitFit(), gw.AdaptFormer(2)])
def test_it_leaves_no_trace(method: Any) -> None:
    model = net()
    graft = stir(gw.graft(model, method, also_train="stem.1"))
    model.train()
    model.layer1.eval()
    model(tokens()).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    before, random = picture(model), torch.random.get_rng_state()
    gw.check_reach(model, tokens())
    assert picture(model) == before
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(p.grad is grads[n] for n, p in model.named_parameters())
    with pytest.raises(RuntimeError):
        gw.check_reach(model, tokens().float())  # the model's own failure passes through
    assert picture(model) == before
    assert torch.equal(torch.random.get_rng_state(), random)
    assert graft.entry is not None


@dataclass
class Out:
    logits: Tensor
    more: list[Tensor]
    count: int = 3


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, form: str) -> Any:
        a, b = self.a(x), self.b(x)
        if form == "dataclass":
            return Out(a, [b])
        return {"dict": {"x": {"a": a}, "y": (b, None, 3)}, "list": [a, (b,)]}[form]


@pytest.mark.parametrize("form", ["dataclass", "dict", "list"])
def test_outputs_of_any_form(form: str) -> None:
    model = Wide()
    gw.graft(model, gw.LoRA(2))
    gw.check_reach(model, torch.randn(2, 4), form)
    gw.check_reach(model, torch.randn(2, 4), form=form)


def test_a_frozen_part_of_a_graft_is_no_fault() -> None:
    model = net()
    graft = gw.graft(model, gw.LoRA(2))
    for name, p in graft.named_parameters():
        p.requires_grad_(name.endswith(".B"))
    gw.check_reach(model, tokens())
