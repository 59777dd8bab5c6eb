"""What a compiler and a recorder of device work ask of a grafted layer: one graph, no look at values."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw
from benchmarks.speed.llama import LINEARS, decoder
from graftwork.methods.base import Method

METHODS = [gw.LoRA(3, alpha=4.5), gw.DoRA(3), gw.DiaBlo(2), gw.AdaptFormer(4), gw.IA3()]
#: operations that copy a value to the host, on which a recorded step would not be repeatable
READS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero")


class Gate(nn.Module):
    """Two linears that read the same input, and one that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c(nn.functional.silu(self.a(x)) * self.b(x))


def grafted(method: Method) -> tuple[nn.Module, gw.Graft]:
    torch.manual_seed(0)
    model = Gate()
    graft = gw.graft(model, method, sites=["type:Linear"], seed=0)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model, graft


def step(model: Any, graft: gw.Graft, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *graft.parameters()])]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.id)
def test_a_step_compiles_into_one_graph(method: Method) -> None:
    model, graft = grafted(method)
    x = torch.randn(3, 6)
    step(model, graft, x)  # families are known
    expected = step(model, graft, x)
    torch._dynamo.reset()
    # every break of the graph is an error
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for one, two in zip(step(compiled, graft, x), expected, strict=True):
        torch.testing.assert_close(one, two)


class NoReads(TorchDispatchMode):
    """Refuses operations that read a value on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            raise AssertionError(f"aten.{name} reads a value")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.id)
def test_a_step_reads_no_value_on_the_host(method: Method) -> None:
    model, graft = grafted(method)
    x = torch.randn(3, 6)
    step(model, graft, x)
    with NoReads():
        step(model, graft, x)
        with pytest.raises(AssertionError, match="reads a value"):
            float(x.sum())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS[:3], ids=lambda m: m.id)
def test_a_decoder_is_compiled_once_for_all_steps(method: Method) -> None:
    options = argparse.Namespace(
        layers=1, hidden=64, tokens=16, vocabulary=128, batch=2, device="cpu"
    )
    model = decoder(options).float()
    graft = gw.graft(model, method, sites=[f"*.{name}" for name in LINEARS], seed=0)
    optimizer = torch.optim.AdamW(graft.parameters(), lr=1e-3)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.model, fullgraph=True, backend=counter)
    x = torch.randn(2, 16, 64)
    for _ in range(3):
        with torch.no_grad():
            eager = model.model(inputs_embeds=x).last_hidden_state
        y = compiled(inputs_embeds=x.clone().requires_grad_()).last_hidden_state
        torch.testing.assert_close(y, eager, rtol=1e-4, atol=1e-4)
        y.square().mean().backward()
        assert all(p.grad is not None for p in graft.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert counter.frame_count == 1
