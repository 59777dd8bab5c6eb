"""A small network with a place for every method, its data, and a plain loop: what both numbers of processes train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unsqueeze(1) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), Attention(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    """A convolution, two attention layers, a head: something for every method to sit on."""

    def __init__(self, dtype: torch.dtype = torch.float64, recompute: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recompute = recompute
        self.stem = nn.Conv2d(1, 8, 2, stride=2)
        self.second = nn.Conv2d(8, 8, 2).to(memory_format=torch.channels_last)
        self.layers = nn.ModuleList(Layer(8) for _ in range(2))
        self.head = nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.tanh(self.stem(x))).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x)
        return self.head(x).mean(1)


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    x, y = (torch.randn(*s, generator=made, dtype=torch.float64) for s in ((8, 1, 6, 6), (8, 4)))
    return x.to(dtype), y.to(dtype)


def train(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        out = model(x)
        nn.functional.mse_loss(out, y[:, : out.shape[1]]).backward()
        optimizer.step()


def sgd(graft: gw.Graft) -> Any:
    return torch.optim.SGD(list(graft.parameters()), lr=0.2, momentum=0.5)
