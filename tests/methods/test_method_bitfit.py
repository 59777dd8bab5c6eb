"""BitFit's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw


@invariant("bitfit", 1, 3)
def test_start_is_the_base_and_one_parameter_per_output() -> None:
    layer, x = nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6)), torch.randn(1, 4, 5, 5)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.BitFit())
    assert torch.equal(model(x), layer(x))
    assert {n: tuple(t.shape) for n, t in g.tensors().items()} == {"0.bias": (6,), "1.bias": (6,)}
    assert not any(bool(t.any()) for t in g.tensors().values())


@invariant("bitfit", 2)
@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(3, 6), nn.BatchNorm1d(6)])
def test_forward_is_the_layer_with_the_moved_bias(norm: nn.Module) -> None:
    layer = nn.Sequential(nn.Linear(5, 6), norm).double().eval()
    model, by_hand = copy.deepcopy(layer), copy.deepcopy(layer)
    g = gw.graft(model, gw.BitFit())
    with torch.no_grad():
        for name, p in g.named_parameters():
            p.normal_()
            by_hand.get_parameter(name).add_(p)
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x), by_hand(x), rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand(x), rtol=0, atol=1e-12)


def test_new_biases_are_merged_as_biases() -> None:
    layer, x = nn.Linear(5, 6, bias=False), torch.randn(3, 5)
    g = gw.graft(layer, gw.BitFit(new_biases=True))
    with torch.no_grad():
        next(g.parameters()).fill_(2.0)
    before = layer(x)
    torch.testing.assert_close(before, x @ layer.weight.T + 2)
    g.merge()
    assert layer.bias is not None and bool((layer.bias == 2).all())
    torch.testing.assert_close(layer(x), before)
    g.unmerge()
    assert layer.bias is None


@invariant("bitfit", 4)
def test_a_model_without_biases_is_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Conv1d(2, 2, 1, bias=False))
    with pytest.raises(gw.GraftError, match="new_biases=True"):
        gw.graft(model, gw.BitFit())
    with pytest.raises(gw.GraftError, match="new_biases=True"):
        gw.graft(model, gw.BitFit(), sites=["0"])


@pytest.mark.parametrize("cls", [nn.InstanceNorm2d, type("Mine", (nn.InstanceNorm2d,), {})])
def test_a_second_graft_sees_the_same_norm(cls: type[nn.Module]) -> None:
    """Unbatched and batched inputs, whatever class the first graft gave the norm."""
    model = nn.Sequential(cls(3, affine=True))
    gw.graft(model, gw.BitFit())
    g = gw.graft(model, gw.BitFit(), name="second")
    with torch.no_grad():
        next(g.parameters()).copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(3, 4, 4)
    unbatched = model(x)
    torch.testing.assert_close(model(x[None])[0], unbatched)
    torch.testing.assert_close(unbatched.mean((1, 2)), torch.tensor([1.0, 2.0, 3.0]))
