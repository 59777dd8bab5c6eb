"""What the core's tests share: small models, stirred grafts, and a picture of a model to compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw


class Net(nn.Module):
    """Every kind of thing a graft meets: convolutions, batch norm, linear layers, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.stem = nn.Sequential(nn.Conv1d(6, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.stem(self.embed(tokens).transpose(1, 2)).mean(-1)
        out: Tensor = self.head(self.norm(h + self.layer1(h)))
        return out


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """A `Net` whose batch norm has statistics of its own."""
    torch.manual_seed(seed)
    model = Net()
    for _ in range(3):
        model(tokens(seed=_))
    return model.eval().to(dtype)


def tokens(n: int = 5, seed: int = 1) -> Tensor:
    """Inputs of `Net`."""
    return torch.randint(0, 10, (n, 7), generator=torch.Generator().manual_seed(seed))


def stir(graft: gw.Graft, size: float = 0.3, seed: int = 7) -> gw.Graft:
    """Move every trained tensor of a graft away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator).to(p.dtype))
    return graft


def picture(model: nn.Module) -> dict[str, Any]:
    """All that removal must give back: objects, bits, classes, modes, attributes, hooks."""
    modules = {
        name: (type(m), m.training, sorted(m.__dict__), list(m._modules), len(m._forward_hooks))
        for name, m in model.named_modules()
    }
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    tensors = {n: (id(t), t.dtype, t.requires_grad, bits(t)) for n, t in named}
    return {"modules": modules, "tensors": tensors, "keys": list(model.state_dict())}


def bits(t: Tensor) -> bytes:
    """A tensor's bytes."""
    return t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def base_bits(model: nn.Module) -> dict[str, bytes]:
    """Bytes of everything in the model's own state dict."""
    return {k: bits(v) for k, v in model.state_dict().items()}


def train(
    model: nn.Module,
    graft: gw.Graft,
    run: Callable[[], Tensor],
    steps: int = 3,
    lr: float = 0.05,
) -> list[float]:
    """Some steps of AdamW with weight decay; the losses."""
    optimizer = torch.optim.AdamW(graft.parameters(), lr=lr, weight_decay=0.1)
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = run().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def close(a: Tensor, b: Tensor, error: float = 1e-10) -> None:
    """Assert that two tensors agree relative to the largest entry."""
    a, b = a.detach(), b.detach()
    worst = float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
    assert worst <= error, f"relative error {worst:.2e} > {error:.0e}"
