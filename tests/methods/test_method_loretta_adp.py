"""LoRETTA_adp's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_by_hand_small import chained
from method_invariants import invariant
from torch import nn

import graftwork as gw
from graftwork.algebra.linear import Linear

BLOCK = nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 8))


def moved(layer: nn.Module, method: gw.LoRETTAAdapter) -> tuple[nn.Module, gw.Graft]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return model, g


def matrices(g: gw.Graft, out: int, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W_down^T `(out, c)` and W_up^T `(c, out)`."""
    t = sorted(g.tensors().items())
    down, up = (chained([v for k, v in t if k.startswith(name)]) for name in "DU")
    return down.reshape(out, c), up.reshape(c, out)


@invariant("loretta_adp", 1)
@pytest.mark.parametrize("layer", [nn.Linear(5, 8), BLOCK])
def test_start_is_the_base_and_two_tensors_have_a_gradient(layer: nn.Module) -> None:
    model = nn.ModuleDict({"mlp": copy.deepcopy(layer)})
    g = gw.graft(model, gw.LoRETTAAdapter(6, tt_rank=3, cores=3), sites=["mlp"], seed=0)
    x = torch.randn(40, 5)
    y = model["mlp"](x)
    assert torch.equal(y, layer(x))
    y.square().sum().backward()
    names = [n for n, _ in g.named_parameters()]
    last = max(n for n in names if n.startswith("mlp.U"))
    for name, p in g.named_parameters():
        assert bool(p.grad.any()) == (name in (last, "mlp.up_bias")), name
        assert bool(p.any()) == (name != last and not name.endswith("bias")), name


@invariant("loretta_adp", 2)
@pytest.mark.parametrize("act", ["relu", "tanh"])
def test_forward_is_the_composition_and_merging_is_refused(act: str) -> None:
    layer, x = nn.Linear(5, 8).double(), torch.randn(3, 5, dtype=torch.float64)
    model, g = moved(layer, gw.LoRETTAAdapter(6, tt_rank=2, cores=3, act=act, scale=-0.7))
    down, up = matrices(g, 8, 6)
    t, h = g.tensors(), layer(x)
    hidden = getattr(torch, act)(h @ down + t["down_bias"])
    by_hand = h - 0.7 * (hidden @ up + t["up_bias"])
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="loretta_adp"):
        g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("loretta_adp", 3)
def test_the_count_is_the_formula_and_the_published_one() -> None:
    start = gw.LoRETTAAdapter().start(Linear(out=768, in_=20), torch.empty(768, 20), None)
    for name in "DU":
        cores = [t for k, t in sorted(start.items()) if k.startswith(name)]
        assert [t.shape[1] for t in cores] == [8, 8, 8, 12, 8]
        assert sum(t.numel() for t in cores) == 780
    assert sum(t.numel() for t in start.values()) == 1560 + 64 + 768


@invariant("loretta_adp", 4)
def test_full_inner_ranks_are_the_dense_adapter() -> None:
    layer = nn.Linear(3, 4).double()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.LoRETTAAdapter(6, tt_rank=100, cores=2))
    sizes = [t.shape for k, t in sorted(g.tensors().items()) if k.startswith("D")]
    assert sizes == [(1, 6, 4), (4, 4, 1)]
    wanted = {name: torch.randn(24, dtype=torch.float64) for name in "DU"}
    made = {}
    for name, flat in wanted.items():
        u, s, v = torch.linalg.svd(flat.reshape(6, 4), full_matrices=False)
        made |= {f"{name}0": (u * s).reshape(1, 6, 4), f"{name}1": v.reshape(4, 4, 1)}
    biases = {k: torch.randn_like(t) for k, t in g.tensors().items() if k.endswith("bias")}
    g.load_tensors(made | biases)
    x = torch.randn(5, 3, dtype=torch.float64)
    h = layer(x)
    hidden = torch.relu(h @ wanted["D"].reshape(4, 6) + biases["down_bias"])
    dense = h + hidden @ wanted["U"].reshape(6, 4) + biases["up_bias"]
    torch.testing.assert_close(model(x), dense, rtol=0, atol=1e-12)


@invariant("loretta_adp", 5)
def test_with_the_relu_open_it_is_affine_and_no_scale_is_the_base() -> None:
    layer = nn.Linear(4, 6).double()
    model, g = moved(layer, gw.LoRETTAAdapter(3, tt_rank=2, cores=2))
    with torch.no_grad():
        dict(g.named_parameters())["down_bias"].fill_(1e3)
    x, z = torch.randn(2, 3, 4, dtype=torch.float64)
    affine = model(x) + model(z) - model(torch.zeros_like(x))
    torch.testing.assert_close(model(x + z), affine, rtol=0, atol=1e-9)
    off, _ = moved(layer, gw.LoRETTAAdapter(3, tt_rank=2, cores=2, scale=0.0))
    assert torch.equal(off(x), layer(x))


@invariant("loretta_adp", 6)
def test_the_cores_start_with_the_spread_of_the_formula() -> None:
    geo, method = Linear(out=32, in_=5), gw.LoRETTAAdapter(8, tt_rank=3, cores=4)
    torch.manual_seed(0)
    starts = [method.start(geo, torch.empty(32, 5), None) for _ in range(300)]
    sigma = (32 + 8) ** -0.5
    down = torch.stack([method.built(s)[0] for s in starts])
    assert down.shape[1:] == (8, 32)
    assert float(down.std()) == pytest.approx(sigma, rel=0.1)
    assert abs(float(down.mean())) < 0.02 * sigma
    for name in ("D0", "D1", "D2", "D3", "U0", "U1", "U2"):
        drawn = torch.stack([s[name] for s in starts])
        spread = sigma**0.25 / drawn.shape[-1] ** 0.5
        assert float(drawn.std()) == pytest.approx(spread, rel=0.1)
        assert abs(float(drawn.mean())) < 0.04
