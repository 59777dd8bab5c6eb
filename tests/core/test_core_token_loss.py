"""The loss under a frozen head is torch's cross entropy, with fewer logits at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw
from graftwork.errors import GraftError


def made(dtype: torch.dtype, bias: bool = False) -> tuple[Tensor, nn.Linear, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 12, generator=draw, dtype=torch.float64).to(dtype)
    head = nn.Linear(12, 31, bias=bias, dtype=dtype).requires_grad_(False)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
    labels = torch.randint(31, (3, 7), generator=draw)
    labels[0, 2] = labels[2, 6] = -100
    return hidden.requires_grad_(), head, labels


def plain(hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    logits = head(hidden)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(wide.flatten(0, -2), labels.flatten())


@pytest.mark.parametrize("chunk", [1, 4, 21, 1000, None])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)]
)
def test_loss_and_gradient_are_those_of_cross_entropy(
    dtype: torch.dtype, near: float, bias: bool, chunk: int | None
) -> None:
    hidden, head, labels = made(dtype, bias)
    expected = plain(hidden, head, labels)
    (wanted,) = torch.autograd.grad(3 * expected, hidden)
    loss = gw.linear_cross_entropy(hidden, head, labels, chunk=chunk)
    (got,) = torch.autograd.grad(3 * loss, hidden)
    assert loss.dtype == expected.dtype and got.dtype == dtype
    # the loss itself is made in float32 from the same logits
    torch.testing.assert_close(loss, expected, rtol=min(near, 2e-6), atol=0)
    scale = float(wanted.abs().max())
    assert float((got - wanted).abs().max()) <= near * scale
    assert not got[labels == -100].any()


def test_without_gradients_and_without_labels() -> None:
    hidden, head, labels = made(torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(
            gw.linear_cross_entropy(hidden, head, labels), plain(hidden, head, labels)
        )
    assert gw.linear_cross_entropy(hidden, head, torch.full_like(labels, -100)).isnan()
    other = torch.where(labels == -100, 7, labels)
    assert (labels != 7).all()
    torch.testing.assert_close(
        gw.linear_cross_entropy(hidden, head, other, ignore_index=7), plain(hidden, head, labels)
    )


class Largest(TorchDispatchMode):
    """The largest tensor that an operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_no_more_logits_at_a_time_than_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 8, generator=draw, requires_grad=True)
    head = nn.Linear(8, 500, bias=False).requires_grad_(False)
    labels = torch.randint(500, (64,), generator=draw)
    with Largest() as chunked:
        gw.linear_cross_entropy(hidden, head, labels, chunk=4).backward()
    with Largest() as whole:
        plain(hidden, head, labels).backward()
    assert whole.elements == 64 * 500
    assert chunked.elements == 500 * 8  # the weight's transpose is a view of that many


def test_what_has_a_gradient_of_its_own_is_refused() -> None:
    hidden, head, labels = made(torch.float32)
    with pytest.raises(GraftError, match="the head trains"):
        gw.linear_cross_entropy(hidden, head.requires_grad_(True), labels)
    model = nn.Sequential(head)
    graft = gw.graft(model, gw.LoRA(2), sites=["0"])
    with pytest.raises(GraftError, match="carries an active graft"):
        gw.linear_cross_entropy(hidden, head, labels)
    with graft.off():
        gw.linear_cross_entropy(hidden, head, labels)
    graft.remove()
    head.requires_grad_(False)
    with pytest.raises(GraftError, match="head is a Embedding"):
        gw.linear_cross_entropy(hidden, nn.Embedding(4, 4), labels)  # type: ignore[arg-type]
    with pytest.raises(GraftError, match=r"labels \(3, 6\) do not fit"):
        gw.linear_cross_entropy(hidden, head, labels[:, 1:])
    with pytest.raises(GraftError, match="chunk must be at least 1"):
        gw.linear_cross_entropy(hidden, head, labels, chunk=0)
