"""A small grafted network and the means to look at everything a failed load could have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graftwork as gw


def net(seed: int = 0, depth: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(2, 4, 3, padding=1))
    model.add_module("norm", nn.BatchNorm2d(4))
    blocks = nn.Sequential(*[nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(depth)])
    model.add_module("blocks", blocks)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(4, 3))
    return model.eval()


def grafted(seed: int = 0, depth: int = 2, name: str = "default") -> gw.Graft:
    """`net` with a trained-looking LoRA on all layers but the head, which trains whole."""
    g = gw.graft(net(seed, depth), gw.LoRA(2), also_train=["head"], name=name)
    return randomised(g)


def randomised(g: gw.Graft) -> gw.Graft:
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p))
    return g


def x() -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * 2 * 25).reshape(2, 2, 5, 5)


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Everything that a refused load must leave alone."""
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [(n, type(m), m.training) for n, m in model.named_modules()],
        [(n, p.requires_grad, id(p)) for n, p in model.named_parameters()],
        {n: g.spec() for n, g in gw.grafts(model).items()},
        torch.get_rng_state(),
        model(x()).detach().clone(),
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a passport in place."""
    path = folder / "graft.json"
    passport = json.loads(path.read_text())
    change(passport)
    path.write_text(json.dumps(passport))


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden files included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stamp(data: bytes) -> dict[str, Any]:
    """The passport's entry for a tensor file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
