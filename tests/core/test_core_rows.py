"""New output channels and new tokens belong to the graft."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import close, picture, stir

ROWS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "Linear": (lambda: nn.Linear(5, 4), lambda: torch.randn(2, 3, 5), -1),
    "Linear, no bias": (lambda: nn.Linear(5, 4, bias=False), lambda: torch.randn(3, 5), -1),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), lambda: torch.randn(2, 3, 6), 1),
    "Conv2d": (
        lambda: nn.Conv2d(3, 4, (3, 1), stride=2, padding_mode="reflect", padding=(1, 0)),
        lambda: torch.randn(2, 3, 6, 5),
        1,
    ),
    "Conv3d": (
        lambda: nn.Conv3d(3, 4, 1, bias=False),
        lambda: torch.randn(2, 3, 3, 4, 2),
        1,
    ),
    "Conv3d, no batch": (lambda: nn.Conv3d(3, 4, 2), lambda: torch.randn(3, 3, 4, 2), 0),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1),
        lambda: torch.randn(2, 3, 4, 5),
        1,
    ),
    "ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(3, 4, 2, stride=2),
        lambda: torch.randn(1, 3, 2, 2, 2),
        1,
    ),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("with_lora", [False, True])
def test_new_output_rows(kind: str, with_lora: bool) -> None:
    make, inputs, axis = ROWS[kind]
    torch.manual_seed(0)
    layer, x = make().double(), inputs().double()
    base = layer(x).detach()
    before = picture(layer)
    graft = gw.graft(
        layer, gw.LoRA(2), sites="*" if with_lora else [], also_train=gw.NewRows("*", 2)
    )
    start = layer(x)
    n = base.shape[axis]
    assert start.shape[axis] == n + 2
    assert torch.equal(start.narrow(axis, 0, n), base)
    assert float(start.narrow(axis, n, 2).detach().abs().max()) == 0  # untrained logits are 0

    stir(graft)
    out = layer(x)
    assert torch.equal(out.narrow(axis, 0, n), base) is not with_lora
    out.square().sum().backward()
    mine = {k: p.grad for k, p in graft.named_parameters()}
    with graft.off():
        assert torch.equal(layer(x), base)

    graft.merge()
    merged = layer(x)
    close(merged, out, 1e-12)
    out_name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    assert getattr(layer, out_name) == 6
    wide = copy.deepcopy(layer)
    graft.unmerge()
    assert getattr(layer, out_name) == 4
    close(layer(x), out, 1e-12)

    # the gradient is that of a layer built wide from the start
    gw.get(wide).model  # noqa: B018 (the copy still knows its graft)
    for p in wide.parameters():
        p.requires_grad_(True)
    dense = {k: p for k, p in wide.named_parameters() if "_graft" not in k}
    torch.func.functional_call(wide, dense, (x,)).square().sum().backward()
    rows_axis = 1 if "Transpose" in kind else 0
    grad = wide.weight.grad
    assert isinstance(grad, Tensor)
    close(mine["new_rows.weight"], grad.narrow(rows_axis, 4, 2), 1e-10)  # type: ignore[arg-type]
    if wide.bias is not None:
        close(mine["new_rows.bias"], wide.bias.grad[4:], 1e-10)  # type: ignore[arg-type,index]

    graft.remove()
    assert picture(layer) == before


@pytest.mark.parametrize("with_lora", [False, True])
def test_new_tokens(with_lora: bool) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(6, 4, padding_idx=0).double()
    before = picture(table)
    old, both = torch.tensor([[0, 5, 2]]), torch.tensor([[6, 5, 7, 0]])
    base = table(old).detach()
    graft = gw.graft(
        table, gw.LoRA(2), sites="*" if with_lora else [], also_train=gw.NewRows("*", 2)
    )
    assert torch.equal(table(old), base)
    close(table(both)[0, 0], table.weight.mean(0), 1e-12)  # a new token starts as the mean token
    stir(graft)
    out = table(both)
    out.square().sum().backward()
    for _, p in graft.named_parameters():
        assert p.grad is not None
    graft.merge()
    assert table.num_embeddings == 8
    close(table(both), out, 1e-12)
    graft.unmerge()
    assert table.num_embeddings == 6
    with pytest.raises(IndexError):
        table(torch.tensor([8]))
    with graft.off():
        assert torch.equal(table(old), base)
        with pytest.raises(IndexError):
            table(both)
    graft.remove()
    assert picture(table) == before
