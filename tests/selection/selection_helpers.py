"""Models and explicit per-sample gradients for the tests of data-layer selection."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw

CLAIMED: dict[int, list[str]] = {}
B = 6


def invariant(*numbers: int) -> Callable[[Any], Any]:
    """Mark a test as the one for these invariants of the header."""

    def claim(test: Any) -> Any:
        for number in numbers:
            CLAIMED.setdefault(number, []).append(test.__name__)
        return test

    return claim


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.up = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.tanh(self.q(x)) * self.q(x).mean(1, keepdim=True)  # q runs twice
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Tokens(nn.Module):
    """Tokens `(B, T, 5)` -> `(B, 3)`: two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(5) for _ in range(2))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def images() -> nn.Module:
    """Images `(B, 3, 6, 6)` -> `(B, 3)`: convolutions of three kinds."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(1),
    )


def words() -> nn.Module:
    """Tokens `(B, 4)` of 7, of which 0 is padding -> `(B, 3)`."""
    return nn.Sequential(nn.Embedding(7, 5, padding_idx=0), nn.Flatten(1), nn.Linear(20, 3))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tokens": (Tokens, (4, 5)),
    "images": (images, (3, 6, 6)),
    "words": (words, (4,)),
}


def grafted(
    kind: str, method: Any = None, seed: int = 0, sites: Any = None
) -> tuple[nn.Module, gw.Graft]:
    """A float64 model with a graft whose tensors are away from their start."""
    torch.manual_seed(seed)
    model = MODELS[kind][0]().double()
    chosen = sites or (["0", "2"] if kind == "words" else None)
    g = gw.graft(model, method or gw.LoRA(2, alpha=3.0), sites=chosen, seed=seed)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model, g


def data(kind: str, seed: int = 1, size: int = B) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shape = MODELS[kind][1]
    y = torch.randn(size, 3, generator=rng, dtype=torch.float64)
    if kind == "words":
        return torch.randint(0, 7, (size, *shape), generator=rng), y
    return torch.randn(size, *shape, generator=rng, dtype=torch.float64), y


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean over samples of each sample's loss."""
    return (model(x) - y).square().sum(1).mean()


def explicit(
    model: nn.Module, g: gw.Graft, x: Tensor, y: Tensor, loss: Any = loss_of
) -> dict[str, list[Tensor]]:
    """Per-sample gradients by autograd, one sample alone at a time, on a copy."""
    twin = copy.deepcopy(model)
    params = dict(gw.get(twin, g.name).named_parameters())
    out: dict[str, list[Tensor]] = {n: [] for n in params}
    for i in range(len(x)):
        grads = torch.autograd.grad(
            loss(twin, x[i : i + 1], y[i : i + 1]), params.values(), materialize_grads=True
        )
        for n, v in zip(params, grads, strict=True):
            out[n].append(v)
    return out


def scores_of(
    gast: gw.GAST, own: dict[str, list[Tensor]], sup: dict[str, list[Tensor]]
) -> dict[str, Tensor]:
    """Explicit inner products by layer."""
    out = {}
    for layer, sites in gast.layers.items():
        total = torch.zeros(len(next(iter(own.values()))), dtype=torch.float64)
        for n, grads in own.items():
            if n.rpartition(".")[0] in sites:
                v = torch.stack(sup[n]).mean(0)
                total += torch.stack([(t * v).sum() for t in grads])
        out[layer] = total
    return out


def run(
    gast: gw.GAST, model: nn.Module, x: Tensor, y: Tensor, step: int = 0, loss: Any = loss_of
) -> dict[str, Tensor]:
    """One batch; the gradients by name."""
    params = dict(gast.graft.named_parameters())
    for p in params.values():
        p.grad = None
    with gast.batch(len(x), step):
        loss(model, x, y).backward()
    return {n: p.grad for n, p in params.items()}


def served(kind: str, method: Any) -> list[str] | None:
    """Sites where the method declares factors."""
    if method.id == "dora" and kind == "words":
        return ["2"]
    return None


def selecting(kind: str, method: Any = None, keep: int = 3, **options: Any) -> Any:
    model, g = grafted(kind, method, sites=served(kind, method) if method else None)
    gast = gw.GAST(g, keep, **options)
    xs, ys = data(kind, 2, 4)
    gast.support(loss_of(model, xs, ys))
    return model, g, gast
