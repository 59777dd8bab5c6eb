"""What the allocator's tests share: a small transformer and a small convolutional net, and their units."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.allocation import Plan, Switchboard, Unit, conv_units, swin_units
from tests.core.core_helpers import bits

LEVELS = {"lora": (1, 2, 4), "adaptformer": (2, 4)}


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1) @ v)


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(nn.functional.gelu(self.linear1(x)))


class SwinTransformerBlock(nn.Module):
    """Named and built like MONAI's, without the windows."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim), Mlp(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Net(nn.Module):
    def __init__(self, dim: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinTransformerBlock(dim, dropout) for _ in range(depth))
        self.head = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class ResBlock(nn.Module):
    """Two convolutions, each behind a batch norm, and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(h)))


def net(dim: int = 8, depth: int = 2, dropout: float = 0.0) -> Net:
    """A frozen base in eval mode, the same each time."""
    torch.manual_seed(0)
    return Net(dim, depth, dropout).eval()


def conv_net(width: int = 6) -> nn.Sequential:
    """A stem, two residual blocks, a last convolution; batch norms with statistics of their own."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), ResBlock(width), ResBlock(width), nn.Conv2d(width, 2, 1)
    )
    for seed in range(3):
        model(picture_batch(seed))
    return model.eval()


def batch(seed: int = 0, n: int = 6, dim: int = 8) -> Tensor:
    """Inputs of `net`."""
    return torch.randn(n, 5, dim, generator=torch.Generator().manual_seed(seed))


def picture_batch(seed: int = 0) -> Tensor:
    """Inputs of `conv_net`."""
    return torch.randn(3, 1, 7, 7, generator=torch.Generator().manual_seed(seed))


def some_units(model: nn.Module) -> list[Unit]:
    """Units of `net` or `conv_net`."""
    if isinstance(model, Net):
        return swin_units(model, levels=LEVELS)
    return conv_units(model, levels=LEVELS, leave_out=["3"])


def board(model: nn.Module, **options: Any) -> Switchboard:
    return Switchboard(model, some_units(model), **options)


def stir(board: Switchboard, names: Any = None, size: float = 0.3) -> None:
    """Move units away from their start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in board.units if names is None else names:
            for p in board.parameters(name):
                p.add_(size * torch.randn(p.shape, generator=generator))


def pick(board: Switchboard, *ends: str) -> list[str]:
    """Units by the ends of their names, one for each end."""
    return [next(n for n in board.units if n.endswith(end)) for end in ends]


QUICK = Plan(
    warm_up=30,
    steps=60,
    audit_every=3,
    allocate_every=6,
    share=0.4,
    memory=0.5,
    votes=2,
    guard=1,
    hysteresis=1e-4,
    ramp=4,
)


def task() -> tuple[nn.Module, Any, Any]:
    """A base, a loss of a step, and a score: the truth is the base with another MLP in block 1."""
    truth = net()
    teacher = board(truth)
    (unit,) = pick(teacher, "1-mlp=lora-r2")
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in teacher.parameters(unit):
            p.copy_(0.8 * torch.randn(p.shape, generator=generator))
    teacher.switch([unit])

    def error(model: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = truth(x)
        return (model(x) - y).square().mean()

    return net(), lambda m, step: error(m, batch(step % 7, 16)), lambda m: -error(m, batch(99, 64))


def everything(model: nn.Module) -> dict[str, Any]:
    """All that an audit must leave: tensors, gradients, flags, modes, what is active."""
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {
        "tensors": {n: (id(t), hashlib.sha256(bits(t)).hexdigest()) for n, t in named},
        "grads": {
            n: None if p.grad is None else (id(p.grad), bits(p.grad))
            for n, p in model.named_parameters()
        },
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "modes": {n: m.training for n, m in model.named_modules()},
        "classes": {n: type(m) for n, m in model.named_modules()},
        "active": {
            n: m._modules["_graft"].active
            for n, m in model.named_modules()
            if "_graft" in m._modules
        },
        "grafts": gw.active(model),
    }


def plain(value: Any) -> Any:
    """A deep copy without what depends on the clock."""
    value = copy.deepcopy(value)
    value.get("diary", {}).pop("seconds", None)
    return value
