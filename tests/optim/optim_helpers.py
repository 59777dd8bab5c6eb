"""A factorised weight to train by hand, and the numbered invariants of the optimizers' headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw

CLAIMED: dict[tuple[str, int], list[str]] = {}


def invariant(room: str, *numbers: int) -> Callable[[Any], Any]:
    """Mark a test as the one for these invariants of a file's header."""

    def claim(test: Any) -> Any:
        for number in numbers:
            CLAIMED.setdefault((room, number), []).append(test.__name__)
        return test

    return claim


class Factored:
    """W = B A `(m, n)`, float64 unless told otherwise, W0 being zero, as a graft on a linear layer."""

    def __init__(
        self, m: int, n: int, rank: int, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> None:
        torch.manual_seed(seed)
        self.layer = nn.Linear(n, m, bias=False, dtype=dtype)
        nn.init.zeros_(self.layer.weight)
        self.graft = gw.graft(self.layer, gw.LoRA(rank))
        self.layer.to(dtype)  # a graft keeps wide factors, unless somebody casts them
        self.a, self.b = (dict(self.graft.named_parameters())[k] for k in "AB")
        with torch.no_grad():
            self.a.normal_(std=n**-0.5)
            self.b.normal_(std=m**-0.5)

    @property
    def w(self) -> Tensor:
        return self.b.detach() @ self.a.detach()

    def backward(self, g: Tensor) -> None:
        """Give A and B the gradients that belong to the weight's gradient `g`."""
        self.a.grad, self.b.grad = self.b.detach().T @ g, g @ self.a.detach().T


def gradients(m: int, n: int, steps: int, seed: int = 1) -> Iterator[Tensor]:
    """Gradients of very different sizes, in every step new ones."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(m, n, generator=generator, dtype=torch.float64) * 3 + 0.05
    for _ in range(steps):
        yield size * torch.randn(m, n, generator=generator, dtype=torch.float64)


def loft(given: Any, **settings: Any) -> gw.LoFT:
    """LoFT without a ridge, so that equations hold to rounding."""
    return gw.LoFT(given, **{"ridge": (0.0, 0.0), **settings})
