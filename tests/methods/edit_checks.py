"""What every edit of hidden states must show about positions, and the model it is shown on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.methods.base import Method

D = 12


class Blocks(nn.Module):
    """Blocks on `(rows, positions, features)`, with a mixing over positions."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(D, D), nn.Tanh()) for _ in range(depth))

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h + h.cumsum(-2))
        return h


def blocks(depth: int = 2, dtype: torch.dtype = torch.float64) -> Blocks:
    torch.manual_seed(0)
    return Blocks(depth).to(dtype)


def h_of(rows: int = 2, n: int = 9, dtype: torch.dtype = torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(rows, n, D, generator=rng, dtype=torch.float64).to(dtype)


def moved(g: gw.Graft, size: float = 0.3) -> dict[str, Tensor]:
    """Give the trained tensors values away from their start."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))
    return g.tensors()


def edited_places(method: Method, n: int, rows: int = 2, **prompt: Any) -> list[list[int]]:
    """Which positions of one block's output change, by row."""
    base, x = blocks(1), h_of(rows, n)
    model = copy.deepcopy(base)
    moved(gw.graft(model, method))
    if prompt:
        with gw.prompt(model, **prompt):
            y = model(x)
    else:
        y = model(x)
    same = (y.view(torch.int64) == base(x).view(torch.int64)).all(-1)
    return [(~row).nonzero().flatten().tolist() for row in same]


def check_places(make: Callable[..., Method]) -> None:
    """The edited positions are those of the paper, with and without word of where the prompts lie."""
    ends = [(2, 3, 9, [0, 1, 6, 7, 8]), (1, 1, 2, [0, 1]), (2, 2, 4, [0, 1, 2, 3])]
    for first, last, n, places in [*ends, (1, 0, 5, [0]), (0, 2, 5, [3, 4])]:
        assert edited_places(make(first=first, last=last), n) == [places] * 2
    for where in ("prompt", "all"):
        assert edited_places(make(where=where), 5) == [[0, 1, 2, 3, 4]] * 2
    for first, last in ((4, 3), (1, 4), (4, 1)):
        for n in range(1, 9):
            p, s = first, last
            if n < p + s:
                p, s = min(p, n // 2), min(s, math.ceil(n / 2))
            places = [i for i in range(n) if i < p or i >= n - s]
            assert edited_places(make(first=first, last=last, short="shrink"), n) == [places] * 2

    said = {"start": torch.tensor([0, 2, 3]), "end": torch.tensor([9, 7, 5])}
    found = edited_places(make(first=2, last=1, short="shrink"), 9, 3, **said)
    assert found == [[0, 1, 8], [2, 3, 6], [3, 4]]
    found = edited_places(make(first=2, last=1, short="shrink"), 9, 2, start=[6, 3], end=[7, 9])
    assert found == [[6], [3, 4, 8]]
    found = edited_places(make(first=1, last=1), 9, 3, **said)
    assert found == [[0, 8], [2, 6], [3, 4]]
    found = edited_places(make(where="prompt"), 9, 3, **said)
    assert found == [[*range(9)], [2, 3, 4, 5, 6], [3, 4]]
    assert edited_places(make(where="all"), 9, 3, **said) == [[*range(9)]] * 3
    # rows that run several times, one behind the other
    found = edited_places(make(first=1, last=0), 6, 4, start=[0, 3], end=6)
    assert found == [[0], [0], [3], [3]]
    assert edited_places(make(first=1, last=1), 8, 2, end=5) == [[0, 4]] * 2


def check_lengths(make: Callable[..., Method]) -> None:
    """Positions beyond a prompt are refused, and so is word of prompts that does not fit."""
    name = type(make()).__name__
    model = blocks(1)
    gw.graft(model, make(first=3, last=2, where="ends"))
    model(h_of(n=5))
    with pytest.raises(gw.GraftError, match=rf"{name}\.first \+ last = 3 \+ 2 .*prompt of 4"):
        model(h_of(n=4))
    with pytest.raises(gw.GraftError, match=r"3 \+ 2 .*prompt of 4"), gw.prompt(model, 9, [0, 5]):
        pass
    with (
        gw.prompt(model, end=[9, 8]),
        pytest.raises(gw.GraftError, match=r"end at 9 .*8 positions"),
    ):
        model(h_of(n=8))
    with gw.prompt(model, end=[9, 8]), pytest.raises(gw.GraftError, match=r"2 prompts .*3 rows"):
        model(h_of(3))


def check_tied(make: Callable[..., Method], phi: Callable[..., Tensor]) -> None:
    """Both ends share one edit, or have each their own.

    Args:
        phi: the edited `h`, given the tensors, `h` and which of two edits.
    """
    for tied in (True, False):
        base, x = blocks(1), h_of()
        model = copy.deepcopy(base)
        t = moved(gw.graft(model, make(first=2, last=1, tied=tied)))
        own = {k.removeprefix("layers.0."): v for k, v in t.items()}
        want = base(x)
        for i, places in enumerate(([0, 1], [8])):
            want[:, places] = phi(
                own if tied else {k: v[i] for k, v in own.items()}, want[:, places]
            )
        torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)
        torch.testing.assert_close(model(x[0]), want[0], rtol=0, atol=1e-12)  # unbatched
