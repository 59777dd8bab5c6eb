"""DiaBlo's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw


def grafted(layer: nn.Module, blocks: int, size: float = 0.3) -> tuple[nn.Module, gw.Graft]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.DiaBlo(blocks))
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn_like(p))
    return model, g


def double(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@invariant("diablo", 1)
def test_start_is_the_base_and_has_a_gradient() -> None:
    layer, x = nn.Conv2d(4, 6, 3), torch.randn(1, 4, 5, 5)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.DiaBlo(2))
    assert torch.equal(model(x), layer(x))
    model(x).square().sum().backward()
    (p,) = g.parameters()
    assert not p.any() and p.grad is not None and p.grad.abs().min() > 0


@invariant("diablo", 2)
def test_a_blocks_gradient_is_the_dense_weights() -> None:
    layer, x = nn.Linear(8, 12).double(), double(5, 8)
    model, g = grafted(layer, 4, size=0.0)
    model(x).pow(3).sum().backward()
    layer(x).pow(3).sum().backward()
    (d,) = g.parameters()
    assert d.grad is not None and layer.weight.grad is not None
    for i in range(4):
        block = layer.weight.grad[3 * i : 3 * i + 3, 2 * i : 2 * i + 2]
        torch.testing.assert_close(d.grad[0, i], block, rtol=0, atol=1e-11)


@invariant("diablo", 3, 5)
@pytest.mark.parametrize(("out", "in_", "blocks"), [(9, 16, 4), (10, 7, 3), (8, 12, 4), (3, 2, 64)])
def test_forward_is_the_built_matrix_and_zero_off_the_blocks(
    out: int, in_: int, blocks: int
) -> None:
    layer = nn.Linear(in_, out).double()
    model, g = grafted(layer, blocks)
    d = g.tensors()["D"][0]
    rows, cols = d.shape[1:]
    change = torch.zeros(out, in_, dtype=torch.float64)
    for k in range(len(d)):
        for i in range(rows):
            for j in range(cols):
                if k * rows + i < out and k * cols + j < in_:
                    change[k * rows + i, k * cols + j] = d[k, i, j]
    inputs = [double(in_), double(3, in_), double(2, 3, in_), double(2, 1, 2, in_)]
    for x in inputs:
        by_hand = x @ (layer.weight + change).T + layer.bias
        torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    assert torch.equal(model.weight[change == 0], layer.weight[change == 0])
    for x in inputs:
        by_hand = x @ (layer.weight + change).T + layer.bias
        torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("diablo", 4)
def test_count_and_one_block_is_full_fine_tuning() -> None:
    g = gw.graft(nn.Conv2d(8, 12, 3), gw.DiaBlo(4))
    assert sum(p.numel() for p in g.parameters()) == 8 * 12 * 9 // 4
    layer = nn.Linear(4, 3).double()
    layer.bias.requires_grad_(False)
    model, g = grafted(layer, 1, size=0.0)
    # Adam looks at gradients only: with no decay both walk the same path
    runs = [(layer, [layer.weight]), (model, list(g.parameters()))]
    x, y = double(16, 4), double(16, 3)
    for net, params in runs:
        optimizer = torch.optim.AdamW(params, lr=0.05, weight_decay=0.0)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(model(x), layer(x), rtol=0, atol=1e-10)


@invariant("diablo", 6)
def test_permuting_whole_blocks_permutes_d() -> None:
    layer = nn.Linear(8, 12).double()
    order = [2, 0, 3, 1]
    into = torch.cat([torch.arange(2 * i, 2 * i + 2) for i in order])
    out = torch.cat([torch.arange(3 * i, 3 * i + 3) for i in order])
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.copy_(layer.weight[out][:, into])
        other.bias.copy_(layer.bias[out])
    model, g = grafted(layer, 4)
    shuffled, h = grafted(other, 4)
    h.load_tensors({"D": g.tensors()["D"][:, order]})
    x = double(5, 8)
    torch.testing.assert_close(shuffled(x[:, into]), model(x)[:, out], rtol=0, atol=1e-12)


def test_blocks_wholly_in_the_padding_are_left_out() -> None:
    # 10 rows in 4 blocks of 3, 16 columns in 4 of 4: all reach; 5 rows in 4 blocks of 2: the last would not
    assert gw.graft(nn.Linear(16, 10), gw.DiaBlo(4)).tensors()["D"].shape == (1, 4, 3, 4)
    assert gw.graft(nn.Linear(16, 5), gw.DiaBlo(4)).tensors()["D"].shape == (1, 3, 2, 4)


def test_dropout_acts_in_training_only() -> None:
    model, _ = grafted(nn.Linear(64, 5), 2)
    gw.get(model).remove()
    gw.graft(model, gw.DiaBlo(2, dropout=0.5))
    with torch.no_grad():
        for p in gw.get(model).parameters():
            p.add_(1.0)
    x = torch.randn(3, 64)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(("rank", "reaches"), [(3, True), (6, True), (20, False)])
def test_inputs_of_low_rank_lose_nothing(rank: int, reaches: bool) -> None:
    """Up to a block's width in rank, the best blocks fit as well as the best full matrix."""
    layer = nn.Linear(24, 20, bias=False).double()
    torch.manual_seed(rank)
    x, y = double(60, rank) @ double(rank, 24), double(60, 20)
    model, g = grafted(layer, 4, size=0.0)
    (d,) = g.parameters()
    columns = []
    with torch.no_grad():
        target = (y - layer(x)).flatten()
        for i in range(d.numel()):  # the output is linear in D
            d.zero_()
            d.view(-1)[i] = 1
            columns.append((model(x) - layer(x)).flatten())
    design = torch.stack(columns, 1)
    fitted = torch.linalg.lstsq(design, target, driver="gelsd").solution
    ours = float((design @ fitted - target).square().sum())
    best = torch.linalg.lstsq(x, target.view(60, 20), driver="gelsd").solution
    full = float((x @ best - target.view(60, 20)).square().sum())
    assert (abs(ours - full) < 1e-8 * full) is reaches
    assert ours > full * (1 - 1e-9)
