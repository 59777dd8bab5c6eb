"""Steps and norms without the host's work on each parameter have the bits of torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftwork.tenants import optim
from tests.tenants.tenants_kit import bits

Make = Callable[[Any], torch.optim.Optimizer]
SHAPES = ((3, 5), (7,), (1, 64), (33, 17))
GO: torch.Tensor = torch.zeros(())


def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Two groups with settings of their own."""
    return [
        {"params": parameters[:2], "lr": 3e-2, "weight_decay": 0.3},
        {"params": parameters[2:], "betas": (0.5, 0.8), "eps": 1e-3, "maximize": True},
    ]


TAKEN: dict[str, Make] = {
    "AdamW": lambda ps: torch.optim.AdamW(groups(ps), lr=1e-2, fused=True),
    "Adam": lambda ps: torch.optim.Adam(groups(ps), lr=1e-2, weight_decay=0.1, fused=True),
}


class Own(torch.optim.AdamW):
    """May do anything."""


def hooked(ps: Any) -> torch.optim.Optimizer:
    found = torch.optim.AdamW(ps, fused=True)
    found.register_step_post_hook(lambda *_: None)
    return found


def scheduled(ps: Any) -> torch.optim.Optimizer:
    found = torch.optim.AdamW(ps, fused=True)
    torch.optim.lr_scheduler.LambdaLR(found, lambda step: 1.0)
    return found


LEFT: dict[str, Make] = {
    "not fused": torch.optim.AdamW,
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, fused=True),
    "subclass": lambda ps: Own(ps, fused=True),
    "hook": hooked,
    "schedule": scheduled,
    "amsgrad": lambda ps: torch.optim.AdamW(ps, amsgrad=True, fused=True),
    "tensor": lambda ps: torch.optim.AdamW(ps, lr=torch.tensor(0.1), fused=True),
    "decoupled": lambda ps: torch.optim.Adam(ps, decoupled_weight_decay=True, fused=True),
}


def made(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=draw).to(dtype)) for s in SHAPES]


def give(parameters: list[nn.Parameter], step: int, missing: int | None = None) -> None:
    draw = torch.Generator().manual_seed(100 + step)
    for i, p in enumerate(parameters):
        grad = torch.randn(p.shape, generator=draw).to(p.dtype)
        p.grad = None if i == missing else grad


def everything(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Any:
    return bits([[p.detach() for p in parameters], optimizer.state_dict()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", TAKEN)
def test_steps_have_the_bits_of_the_optimizers_own(kind: str, dtype: torch.dtype) -> None:
    """Over a parameter without a gradient, a changed rate, a loaded state and a step that skips itself."""
    mine, theirs = made(dtype), made(dtype)
    ours, plain = TAKEN[kind](mine), TAKEN[kind](theirs)
    for step in range(7):
        missing = 1 if step == 2 else None
        give(mine, step, missing)
        give(theirs, step, missing)
        for optimizer in (ours, plain):
            if step == 3:
                optimizer.param_groups[0]["lr"] = 0.5
            if step == 4:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        flag = torch.tensor(float(step == 5))
        before = everything(mine, ours)
        taken = optim.fused_step(ours, flag)
        assert taken is (step > 0)  # the first makes the state
        if not taken:
            assert everything(mine, ours) == before
            ours.step()
        plain.found_inf = flag  # type: ignore[attr-defined]
        plain.step()
        assert everything(mine, ours) == everything(theirs, plain), step
        assert (everything(mine, ours) == before) is (step == 5)


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_more_than_a_fused_step_is_left_to_the_optimizer(kind: str) -> None:
    parameters = made()
    optimizer = LEFT[kind](parameters)
    give(parameters, 0)
    optimizer.step()
    give(parameters, 1)
    before = everything(parameters, optimizer)
    assert not optim.fused_step(optimizer, GO)
    assert everything(parameters, optimizer) == before


def test_parameters_of_two_dtypes_are_left_to_the_optimizer() -> None:
    parameters = [*made(), *made(torch.float64)]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    give(parameters, 0)
    optimizer.step()
    assert not optim.fused_step(optimizer, GO)


@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.bfloat16,), (torch.float32, torch.float64)])  # fmt: skip
def test_the_norm_has_the_bits_of_torchs(dtypes: tuple[torch.dtype, ...]) -> None:
    grads: list[Tensor] = [p.detach() for d in dtypes for p in made(d)]
    assert bits(optim.total_norm(grads)) == bits(nn.utils.get_total_norm(grads))
    grads[1][0] = torch.nan
    assert optim.total_norm(grads).isnan()
