"""Factor pairs that are alike are stepped at once, and nobody can tell."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw


def three_alike() -> tuple[nn.Module, gw.Graft]:
    torch.manual_seed(7)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 4)).double()
    graft = gw.graft(model, gw.LoRA(2), seed=3)
    model.double()
    return model, graft


def some_gradients(graft: gw.Graft, step: int) -> None:
    """Every factor's own, but for the second layer's, which has none in the third and the fourth step."""
    generator = torch.Generator().manual_seed(step)
    for name, p in graft.named_parameters():
        g = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.grad = None if name.startswith("1.") and step in (2, 3) else g


@pytest.mark.parametrize("kind", [gw.LoFT, gw.LoFTSimple])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_pairs_side_by_side_step_as_each_alone(kind: type[gw.LoFT], max_norm: float | None) -> None:
    """Also where one rests for a while, and where a state was saved in between."""
    ends = []
    for chunk in (2**24, 1, None):
        _, graft = three_alike()
        each: dict[str, Any] = {"lr": 0.02, "max_norm": max_norm, "chunk": chunk or 2**24}
        optimizer = kind(graft, **each)
        for step in range(7):
            some_gradients(graft, step)
            optimizer.step()
            if chunk is None and step in (1, 3, 4):
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = kind(graft, **each)
                optimizer.load_state_dict(saved)
        ends.append(torch.cat([p.detach().flatten() for p in graft.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)
    assert torch.equal(ends[0], ends[2])
    counts = {name: optimizer.state[p]["step"] for name, p in graft.named_parameters()}
    assert {n: counts[f"{n}.A"] for n in "0123"} == {"0": 7, "1": 5, "2": 7, "3": 7}


def test_a_state_that_somebody_replaces_counts() -> None:
    ends = []
    for replaced in (True, False):
        _, graft = three_alike()
        optimizer = gw.LoFT(graft, lr=0.02)
        for step in range(6):
            some_gradients(graft, 0)
            optimizer.step()
            for state in optimizer.state.values() if step == 2 else ():
                for name in ("exp_avg", "cross", "previous"):
                    fresh = state[name] * (name == "previous")
                    if replaced:
                        state[name] = fresh
                    else:
                        state[name].copy_(fresh)
        ends.append(torch.cat([p.detach().flatten() for p in graft.parameters()]))
    assert torch.equal(*ends)


def test_a_step_takes_no_more_operations_for_more_layers_of_one_shape() -> None:
    class Count(TorchDispatchMode):
        large = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.large += func in (
                torch.ops.aten.bmm.default,
                torch.ops.aten.linalg_cholesky_ex.default,
            )
            return func(*args, **(kwargs or {}))

    found = []
    for layers in (1, 9):
        model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(layers)))
        graft = gw.graft(model, gw.LoRA(2))
        optimizer = gw.LoFT(graft)
        for p in graft.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        with Count() as count:
            optimizer.step()
        found.append(count.large)
    assert found[0] == found[1] > 0
