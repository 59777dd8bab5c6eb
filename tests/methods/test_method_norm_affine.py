"""NormAffine's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4))


def train(model: nn.Module, steps: int = 5) -> None:
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=0.1)
    model.train()
    for step in range(steps):
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step)) + 2
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()


@invariant("norm_affine", 1, 3)
def test_start_is_the_base_and_two_parameters_per_channel() -> None:
    model, base = network().eval(), network().eval()
    g = gw.graft(model, gw.NormAffine())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(model(x), base(x))
    assert sum(p.numel() for p in g.parameters()) == 2 * 4 + 2 * 4
    assert {n.split(".")[0] for n, _ in g.named_parameters()} == {"1", "3"}


@invariant("norm_affine", 2)
def test_trains_like_the_norms_themselves() -> None:
    """The same steps on a plain network whose norms alone train: affine tensors and statistics."""
    model, plain = network(), network()
    g = gw.graft(model, gw.NormAffine())
    plain[0].requires_grad_(False)
    train(model)
    train(plain)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(model(x), plain(x))
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(g.tensors()[f"1.module.{name}"], getattr(plain[1], name)), name
    g.merge()
    assert torch.equal(model(x), plain(x))


@invariant("norm_affine", 4)
def test_off_and_remove_give_back_the_statistics() -> None:
    model, base = network(), network().eval()
    g = gw.graft(model, gw.NormAffine())
    train(model)
    x = torch.randn(2, 3, 6, 6)
    assert not torch.equal(model(x), base(x))
    with g.off():
        assert torch.equal(model(x), base(x))
    g.remove()
    assert torch.equal(model.eval()(x), base(x))
    for name, t in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], t), name


def test_a_model_without_norms_is_refused() -> None:
    with pytest.raises(gw.GraftError, match="no normalisation layer"):
        gw.graft(nn.Linear(3, 4), gw.NormAffine())


def test_other_methods_freeze_statistics_and_norm_affine_moves_its_own() -> None:
    model = network()
    before = copy.deepcopy(model[1].running_mean)
    gw.graft(model, gw.LoRA(2), sites=["0"])
    train(model)
    assert torch.equal(model[1].running_mean, before)
