"""Was every graft really reached, and did every trained tensor get a gradient?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.attach import CALL, grafts_of
from graftwork.errors import GraftError
from graftwork.handle import grafts
from graftwork.states import SiteState


def check_reach(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Run the model once in train mode with gradients and once in eval mode without.

    Nothing stays changed: mode, gradients, random state and the graft's own buffers are put back.

    Args:
        model: a grafted model.
        args, kwargs: inputs of its forward.

    Raises:
        GraftError: names every active graft's site that was not reached in a mode, and every
            trained tensor whose gradient is None.
    """
    faults: list[str] = []
    active = list(_active_states(model))
    if not active:
        raise GraftError(f"{type(model).__name__} has no active graft to check")
    mode = model.training
    grads = {id(p): p.grad for p in model.parameters()}
    buffers = [(b, b.clone()) for _, _, s in active for b in s.buffers()]
    try:
        with torch.random.fork_rng(devices=_devices(model)):
            model.train()
            for p in model.parameters():
                p.grad = None
            with _listening(model) as seen, torch.enable_grad():
                total = sum(
                    (t.float().sum() for t in _floats(model(*args, **kwargs))), torch.zeros(())
                )
            faults += _unreached(active, seen, "training mode")
            if isinstance(total, Tensor) and total.requires_grad:
                total.backward()
            for site, name, state in active:
                for leaf, p in state.named_parameters():
                    if p.requires_grad and p.grad is None:
                        faults.append(f"{site or '(model)'} ({name}): {leaf} has no gradient")
            model.eval()
            with _listening(model) as seen, torch.no_grad():
                model(*args, **kwargs)
            faults += _unreached(active, seen, "eval mode under no_grad")
    finally:
        model.train(mode)
        for p in model.parameters():
            p.grad = grads.get(id(p))
        with torch.no_grad():
            for b, value in buffers:
                b.copy_(value)
    if faults:
        raise GraftError("grafts out of reach:\n  " + "\n  ".join(faults))


def _active_states(model: nn.Module) -> Iterator[tuple[str, tuple[str, str], SiteState]]:
    for graft in grafts(model).values():
        for module_name in graft.entry.modules():
            site = grafts_of(graft.model.get_submodule(module_name))
            if site is not None and graft.name in dict(site.active):
                for slot, state in site.slots(graft.name).items():
                    yield _site_name(module_name, slot), (graft.name, slot), state


def _site_name(module_name: str, slot: str) -> str:
    return module_name if slot == CALL else f"{module_name}.{slot}".lstrip(".")


@contextlib.contextmanager
def _listening(model: nn.Module) -> Iterator[set[tuple[str, str, str]]]:
    """Collect (module, graft, slot) of everything that is reached inside the block."""
    reached: set[tuple[str, str, str]] = set()
    sites = [(n, g) for n, m in model.named_modules() if (g := grafts_of(m)) is not None]
    for _, g in sites:
        g.seen = set()
    try:
        yield reached
    finally:
        for n, g in sites:
            reached |= {(n, name, slot) for name, slot in g.seen or ()}
            g.seen = None


def _unreached(
    active: list[tuple[str, tuple[str, str], SiteState]], seen: set[tuple[str, str, str]], mode: str
) -> list[str]:
    reached = {_site_name(n, slot) + "\0" + name for n, name, slot in seen}
    return [
        f"{site or '(model)'} ({name}): not reached in {mode}"
        for site, (name, _), _ in active
        if not any(r == f"{site}\0{name}" or r.endswith(f".{site}\0{name}") for r in reached)
    ]


def _floats(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        if out.is_floating_point():
            yield out
    elif isinstance(out, dict):
        for v in out.values():
            yield from _floats(v)
    elif isinstance(out, list | tuple):
        for v in out:
            yield from _floats(v)


def _devices(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})
