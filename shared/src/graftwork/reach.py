"""Was every graft really reached, and did every trained tensor get a gradient?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.attach import grafts_of
from graftwork.errors import GraftError
from graftwork.handle import grafts
from graftwork.ledger import root_of
from graftwork.states import SiteState

_NO_GRADIENT = (
    "the output needs no gradient: the model detaches it, or checkpoints in torch's re-entrant form "
    "over a frozen embedding (use_reentrant=False mends that, or an embedding output that requires "
    "a gradient: transformers' enable_input_require_grads)"
)


def check_reach(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Run the model once in train mode with gradients and once in eval mode without.

    Nothing stays changed: modes, gradients, torch's random state and all buffers are put back.

    Args:
        model: a grafted model.
        args, kwargs: inputs of its forward.

    Raises:
        GraftError: names every active graft's site that was not reached in a mode, and every
            trained tensor whose gradient is None.
    """
    root = root_of(model)
    active = [] if root is None else list(_active_states(root))
    if root is None or not active:
        raise GraftError(f"{type(model).__name__} has no active graft to check")
    faults: list[str] = []
    with undone(model), torch.random.fork_rng(devices=cuda_devices(model)):
        model.train()
        for p in model.parameters():
            p.grad = None
        with _listening(root) as seen, torch.enable_grad():
            total = sum((t.float().sum() for t in _floats(model(*args, **kwargs))), torch.zeros(()))
        faults += _unreached(active, seen, "training mode")
        if total.requires_grad:
            total.backward()
        else:
            faults.append(_NO_GRADIENT)
        for site, name, state in active:
            for leaf, p in state.named_parameters():
                if p.requires_grad and p.grad is None:
                    faults.append(f"{_where(site)} ({name}): {leaf} has no gradient")
        model.eval()
        with _listening(root) as seen, torch.no_grad():
            model(*args, **kwargs)
        faults += _unreached(active, seen, "eval mode under no_grad")
    if faults:
        raise GraftError("grafts out of reach:\n  " + "\n  ".join(faults))


@contextlib.contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Put back modes, gradients and buffers, whatever happens inside."""
    modes = [(m, m.training) for m in model.modules()]
    grads = [(p, p.grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p, grad in grads:
            p.grad = grad
        with torch.no_grad():
            for b, value in buffers:
                if not torch.equal(b, value):
                    b.copy_(value)


Key = tuple[str, str]  # a site's name and a graft's


def _active_states(root: nn.Module) -> Iterator[tuple[str, str, SiteState]]:
    for graft in grafts(root).values():
        for module_name in graft.entry.modules():
            site = graft.site(module_name)
            if graft.name in dict(site.active):
                for slot, state in site.slots(graft.name).items():
                    yield _site_name(module_name, slot), graft.name, state


def _site_name(module_name: str, slot: str) -> str:
    return ".".join(part for part in (module_name, slot) if part)


def _where(site: str) -> str:
    return site or "(model)"


@contextlib.contextmanager
def _listening(root: nn.Module) -> Iterator[set[Key]]:
    """Collect (site, graft) of everything that is reached inside the block."""
    reached: set[Key] = set()
    sites = [(n, g) for n, m in root.named_modules() if (g := grafts_of(m)) is not None]
    for _, g in sites:
        g.seen = set()
    try:
        yield reached
    finally:
        for n, g in sites:
            reached |= {(_site_name(n, slot), name) for name, slot in g.seen or ()}
            g.seen = None


def _unreached(active: list[tuple[str, str, SiteState]], seen: set[Key], mode: str) -> list[str]:
    return [
        f"{_where(site)} ({name}): not reached in {mode}"
        for site, name, _ in active
        if (site, name) not in seen
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
    elif dataclasses.is_dataclass(out):
        yield from _floats(vars(out))


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """The GPUs that hold a part of the model, for `torch.random.fork_rng`."""
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})
