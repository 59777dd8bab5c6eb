"""LoRETTA's numbered invariants."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from method_by_hand_small import chained
from method_invariants import invariant
from torch import nn

import graftwork as gw
from graftwork.algebra.linear import Linear
from graftwork.trains import inner_ranks, modes, product

LAYERS = [
    (nn.Linear(6, 10), (4, 6)),
    (nn.Linear(13, 7), (4, 13)),
    (nn.Conv2d(4, 6, (3, 2), groups=2), (2, 4, 7, 7)),
    (nn.ConvTranspose1d(6, 9, 3, stride=2, groups=3), (1, 6, 5)),
]


def grafted(
    layer: nn.Module, method: gw.LoRETTA, size: float = 0.5
) -> tuple[nn.Module, gw.Graft, dict[str, torch.Tensor]]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn_like(p))
    return model, g, g.tensors()


def cores(tensors: dict[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    return [t for k, t in sorted(tensors.items()) if k.startswith(name)]


@invariant("loretta", 1)
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_start_is_the_base_and_one_core_has_a_gradient(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    model, x = copy.deepcopy(layer), torch.randn(shape)
    g = gw.graft(model, gw.LoRETTA(6, cores=3))
    y = model(x)
    assert torch.equal(y, layer(x))
    y.square().sum().backward()
    last = max(n for n, _ in g.named_parameters())
    assert last.startswith("B")
    for name, p in g.named_parameters():
        assert bool(p.grad.any()) == (name == last) and bool(p.any()) == (name != last)


@invariant("loretta", 2)
def test_forward_is_the_equation() -> None:
    layer, x = nn.Linear(6, 10).double(), torch.randn(3, 6, dtype=torch.float64)
    model, g, t = grafted(layer, gw.LoRETTA(4, tt_rank=3, alpha=3.0))
    a, b = (chained(cores(t, name)) for name in "AB")
    w = layer.weight + 3.0 / 4 * b.reshape(4, 10).T @ a.reshape(6, 4).T
    by_hand = x @ w.T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("loretta", 3)
def test_the_count_is_the_formula_and_the_published_one() -> None:
    geo = Linear(out=768, in_=768)
    start = gw.LoRETTA(8, tt_rank=5).start(geo, torch.empty(768, 768), None)
    assert [t.shape[1] for t in cores(start, "A")] == [8, 8, 12, 8]
    assert [sum(t.numel() for t in cores(start, name)) for name in "AB"] == [580, 580]
    for size, count in ((8192, 5), (6144, 4), (13, 4), (1, 3), (26, 4), (64, 2), (97 * 8, 4)):
        sizes = modes(size, count)
        ranks = inner_ranks(sizes, 5)
        assert math.prod(sizes) == size and len(sizes) <= count
        assert ranks[0] == ranks[-1] == 1 and max(ranks) <= 5
    assert sorted(modes(8192, 5)) == [4, 4, 8, 8, 8] and modes(97 * 8, 4) == [2, 2, 97, 2]
    assert inner_ranks([2, 3, 50], 8) == [1, 2, 6, 1]


@invariant("loretta", 4)
@pytest.mark.parametrize(("tt_rank", "rank"), [(2, 2), (3, 3), (9, 4)])
def test_ranks_are_bounded(tt_rank: int, rank: int) -> None:
    layer = nn.Linear(16, 16).double()
    model, g, t = grafted(layer, gw.LoRETTA(4, tt_rank=tt_rank))
    g.merge()  # the last core of A is as long as r = 4, so rho bounds the rank too
    assert int(torch.linalg.matrix_rank(model.weight - layer.weight, rtol=1e-9)) == rank
    sizes = [c.shape[1] for c in cores(t, "A")]
    assert sizes == [2, 2, 4, 4]
    whole = product(cores(t, "A"))
    for cut, most in ((1, 2), (2, 4), (3, 4)):
        unfolded = whole.reshape(math.prod(sizes[:cut]), -1)
        assert int(torch.linalg.matrix_rank(unfolded, rtol=1e-9)) == min(most, tt_rank)


@invariant("loretta", 5)
def test_full_inner_ranks_are_any_matrix_and_rank_one_a_product_of_vectors() -> None:
    sizes = modes(6 * 4, 3)
    wanted = torch.randn(math.prod(sizes), dtype=torch.float64)
    ranks, made, rest = inner_ranks(sizes, 100), [], wanted.reshape(1, -1)
    for i, k in enumerate(sizes[:-1]):  # successive SVDs (TT-SVD)
        u, s, v = torch.linalg.svd(rest.reshape(ranks[i] * k, -1), full_matrices=False)
        assert len(s) == ranks[i + 1]
        made.append(u.reshape(ranks[i], k, -1))
        rest = torch.diag(s) @ v
    made.append(rest.reshape(ranks[-2], sizes[-1], 1))
    torch.testing.assert_close(product(made), wanted, rtol=0, atol=1e-12)
    layer = nn.Linear(6, 5).double()
    g = gw.graft(layer, gw.LoRETTA(4, tt_rank=100, cores=3))
    g.load_tensors(g.tensors() | {f"A{i}": core for i, core in enumerate(made)})
    a, _ = g.method.built(Linear(5, 6), g.tensors())
    torch.testing.assert_close(a, wanted.reshape(6, 4).T, rtol=0, atol=1e-12)
    u, v, w = (torch.randn(n) for n in sizes)
    outer = torch.einsum("i,j,k->ijk", u, v, w).flatten()
    torch.testing.assert_close(product([t.reshape(1, -1, 1) for t in (u, v, w)]), outer)


@invariant("loretta", 6)
def test_a_starts_with_the_spread_of_the_formula() -> None:
    geo, method = Linear(out=32, in_=48), gw.LoRETTA(8, tt_rank=3)
    torch.manual_seed(0)
    starts = [method.start(geo, torch.empty(32, 48), None) for _ in range(300)]
    entries = torch.stack([product(cores(s, "A")) for s in starts])
    sigma = (48 + 8) ** -0.5
    assert float(entries.std()) == pytest.approx(sigma, rel=0.1)
    assert abs(float(entries.mean())) < 0.02 * sigma
    for i in range(4):
        drawn = torch.stack([s[f"A{i}"] for s in starts])
        spread = sigma**0.25 / math.sqrt(drawn.shape[-1])
        assert float(drawn.std()) == pytest.approx(spread, rel=0.1)
        assert abs(float(drawn.mean())) < 0.04


@invariant("loretta", 7)
def test_dropout_acts_in_training_on_the_branch_only() -> None:
    layer, x = nn.Linear(32, 5), torch.randn(3, 32)
    model = copy.deepcopy(layer)
    gw.graft(model, gw.LoRETTA(4, dropout=0.5))
    assert torch.equal(model.train()(x), layer(x))
    model, _, _ = grafted(layer, gw.LoRETTA(4, dropout=0.5))
    model.train()
    assert not torch.equal(model(x), model(x))
    mean = torch.stack([model(x) for _ in range(400)]).mean(0)
    model.eval()
    assert torch.equal(model(x), model(x))
    assert (mean - model(x)).abs().max() < 0.35 * (model(x) - layer(x)).abs().max()


def test_a_layer_that_is_never_called_refuses_dropout() -> None:
    with pytest.raises(gw.GraftError, match=r"LoRETTA\.dropout"):
        gw.graft(nn.MultiheadAttention(8, 2), gw.LoRETTA(2, dropout=0.1), sites=["out_proj"])


@pytest.mark.parametrize(
    "fields", [{"rank": 0}, {"tt_rank": 0}, {"cores": 7}, {"cores": 0}, {"dropout": 1.0}]
)
def test_bad_settings_are_refused_by_name(fields: dict[str, int]) -> None:
    with pytest.raises(gw.GraftError, match=rf"LoRETTA\.{next(iter(fields))}"):
        gw.LoRETTA(**fields)


def test_a_rank_above_the_layer_s_is_refused() -> None:
    layer = nn.Conv2d(6, 4, 3, groups=2)
    with pytest.raises(gw.GraftError, match=r"LoRETTA.rank = 6 is a rank above the layer's own, 4"):
        gw.graft(layer, gw.LoRETTA(6))
    gw.graft(layer, gw.LoRETTA(4))
