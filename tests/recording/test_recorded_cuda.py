"""On a GPU: recorded trainings are the plain ones, and what cannot be recorded leaves the card usable."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS = 20
METHODS = {
    "LoRA": lambda: gw.LoRA(4, alpha=6),
    "LoRA, dropout": lambda: gw.LoRA(4, dropout=0.2),
    "DoRA": lambda: gw.DoRA(4),
    "DiaBlo": lambda: gw.DiaBlo(4),
    "PiSSA": lambda: gw.PiSSA(4),
    "IA3": lambda: gw.IA3(),
    "OFT": lambda: gw.OFT(8),
}


class Block(nn.Module):
    """Attention with dropout, an MLP with dropout, and a convolution with a batch norm in front."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=i > 0) for i in range(3))
        self.o, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)
        self.up, self.down, self.drop = nn.Linear(32, 96), nn.Linear(96, 32), nn.Dropout(dropout)
        self.p = dropout

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu_(self.bn(self.conv(x))).flatten(2).transpose(1, 2)
        q, k, v = (m(h).unflatten(-1, (4, 8)).transpose(1, 2) for m in (self.q, self.k, self.v))
        p = self.p if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=p)
        h = self.norm(h + self.o(mixed.transpose(1, 2).flatten(2)))
        return h + self.down(self.drop(nn.functional.gelu(self.up(h))))


def block(method: Any, dtype: torch.dtype, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    model = Block(dropout).to("cuda", dtype).train()
    if method is not None:
        layers = ["type:Linear"] if isinstance(method, gw.OFT) else ["type:Linear", "type:Conv2d"]
        graft = gw.graft(model, method, sites=layers, seed=0)
        with torch.no_grad():
            for n, p in enumerate(graft.parameters()):
                draw = torch.Generator().manual_seed(n)
                p.add_(0.05 * torch.randn(p.shape, generator=draw).to(p))
    return model


def batch(seed: int, dtype: torch.dtype, rows: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, 8, 8, generator=draw).to("cuda", dtype)


def train(
    model: nn.Module,
    dtype: torch.dtype,
    *,
    record: bool,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    scale: bool = False,
) -> tuple[list[float], list[Tensor], Any]:
    """Losses of some steps, all tensors after them, and the recorder."""
    torch.manual_seed(3)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=scale)
    losses = []
    with gw.recorded(model, tell=_fail) if record else contextlib.nullcontext() as recorder:
        for step in range(STEPS):
            with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
                y = model(batch(step, dtype))
            loss = y.float().square().mean()
            scaler.scale(loss).backward()
            losses.append(loss.detach())
            if (step + 1) % accumulate == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            if step == STEPS // 2:
                model.eval()
                with torch.no_grad():
                    model(batch(99, dtype, rows=2))
                model.train()
        found = [float(t) for t in losses]
    return found, [*model.parameters(), *model.buffers()], recorder


def _fail(line: str) -> None:
    raise AssertionError(line)


def same_training(method: Any, dtype: torch.dtype, **how: Any) -> None:
    plain, tensors, _ = train(block(method, dtype), dtype, record=False, **how)
    found, others, recorder = train(block(method, dtype), dtype, record=True, **how)
    assert recorder.recorded == 1 and recorder.replayed == STEPS and not recorder.plain, recorder
    gap = max(abs(a - b) / abs(a) for a, b in zip(plain, found, strict=True))
    far = max(
        float((a - b).detach().abs().max() / a.detach().abs().max().clamp_min(1e-12))
        for a, b in zip(tensors, others, strict=True)
        if a.is_floating_point()
    )
    print(f"  loss apart by {gap:.1e}, tensors by {far:.1e}", flush=True)
    assert gap <= (1e-6 if dtype is torch.float32 and not how.get("autocast") else 1e-3), gap
    assert plain[0] != plain[-1]


def test_every_method_in_float32_and_bfloat16() -> None:
    for name, method in METHODS.items():
        for dtype in (torch.float32, torch.bfloat16):
            print(name, dtype)
            same_training(method(), dtype)


def test_full_training_accumulation_autocast_and_scaling() -> None:
    same_training(None, torch.float32)
    same_training(gw.LoRA(4), torch.float32, accumulate=3)
    same_training(gw.LoRA(4), torch.float32, autocast=torch.bfloat16)
    same_training(gw.DoRA(4), torch.float32, autocast=torch.bfloat16)
    same_training(gw.LoRA(4), torch.float32, autocast=torch.float16, scale=True)


def test_what_is_kept_of_a_step_stays_and_inputs_get_gradients() -> None:
    one, two = (block(gw.LoRA(4), torch.float32, dropout=0.0) for _ in range(2))
    kept = []
    with gw.recorded(one, tell=_fail):
        for seed in range(4):
            x = batch(seed, torch.float32).requires_grad_()
            y = one(x)
            y.sum().backward()
            kept.append((y, x.grad))
    for seed, (y, grad) in enumerate(kept):
        x = batch(seed, torch.float32).requires_grad_()
        other = two(x)
        other.sum().backward()
        torch.testing.assert_close(y, other)
        torch.testing.assert_close(grad, x.grad)


def test_switching_moving_and_shapes() -> None:
    model = block(gw.LoRA(4), torch.float32, dropout=0.0)
    gw.graft(model, gw.LoRA(2), sites=["q", "up"], name="b", seed=4)
    told: list[str] = []
    x = batch(0, torch.float32)
    with gw.recorded(model, tell=told.append) as recorder:
        for which in ("default", "b", {"default": 0.5, "b": 1.0}, "default"):
            gw.activate(model, which)
            for _ in range(3):
                y = model(x)
                y.sum().backward()
            torch.testing.assert_close(y, recorder._forward(x), rtol=1e-4, atol=1e-4)
        assert recorder.recorded == 4 and not told
        model(batch(0, torch.float32, rows=3)).sum().backward()
        assert len(told) == 1
        loss = model(x).sum()
        other = model(x).sum()
        (loss + other).backward()
        assert len(told) == 2
        with gw.get(model).off():
            model(x.clone().requires_grad_())
        assert "off" in told[-1]
        y = model(x)
        y.sum().backward()
        assert recorder.replayed == 14


class Waits(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (1.0 if float(y.detach().sum()) > 0 else 2.0)


class Draws(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(torch.rand(()))


def test_what_cannot_be_recorded_leaves_the_card_usable() -> None:
    for kind, word in ((Waits, "synchroniz"), (Draws, "on the host")):
        torch.manual_seed(0)
        model, told = kind(0.1).cuda().train(), list[str]()
        with gw.recorded(model, tell=told.append) as recorder:
            for step in range(3):
                model(batch(step, torch.float32)).sum().backward()
        assert recorder.replayed == 0 and recorder.plain.total() == 3, recorder
        assert word in told[0], told
    same_training(gw.LoRA(4), torch.float32)
