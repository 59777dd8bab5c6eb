"""What a compiler and a recorder of device work ask of a grafted layer: one graph, no look at values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw
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
