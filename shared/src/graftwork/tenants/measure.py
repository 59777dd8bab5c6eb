"""How long does a pass take, and what does it keep? The runs that a cost model is fitted to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.handle import get
from graftwork.tenants.backbone import Body
from graftwork.tenants.batches import Join
from graftwork.tenants.cost import Run
from graftwork.tenants.layouts import Shape
from graftwork.tenants.mix import Mix


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's own tensors, each once; what a graft holds does not count."""
    own = _storages(model)
    for name in _graft_names(model):
        for p in get(model, name).parameters():
            own.pop(p.untyped_storage().data_ptr(), None)
    return sum(own.values())


def measured(
    model: nn.Module,
    body: Body,
    join: Join,
    inputs: Mapping[str, Any],
    shape: Shape,
    *,
    repeats: int = 3,
    warm: int = 1,
    state: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Run:
    """Forward and backward of one pass, the fastest of some.

    No gradient, parameter or random stream of a task is changed. Bytes are the backbone's, the tasks' state and what
    the pass has allocated at its peak; on a CPU, which does not count that, what is kept for the backward pass.

    Args:
        model: with the tasks' grafts.
        body, join: as `Runner` takes them.
        inputs: of the tasks that take part, by name.
        shape: that this pass has.
        repeats, warm: timed and untimed passes.
        state: bytes of all tasks on the device.
        clock: says what time it is; on a busy machine `time.process_time`, where no other device does the work.
    """
    mix = Mix(model)
    device = next(model.parameters()).device
    cuda = device.type == "cuda"
    parameters = [p for name in inputs for p in get(model, name).parameters()]
    kept = [p.grad for p in parameters]
    devices = [device] if cuda else []

    def once() -> None:
        joined = join(inputs)
        with mix.on(joined.segments):
            hidden = body(model, joined.inputs)
            hidden.float().square().mean().backward()
        if cuda:
            torch.cuda.synchronize(device)

    times: list[float] = []
    with torch.random.fork_rng(devices=devices):
        try:
            for p in parameters:
                p.grad = None
            for _ in range(warm):
                once()
            if cuda:
                for p in parameters:
                    p.grad = None
                before = torch.cuda.memory_allocated(device)
                torch.cuda.reset_peak_memory_stats(device)
            for _ in range(repeats):
                began = clock()
                once()
                times.append(clock() - began)
            peak = (
                torch.cuda.max_memory_allocated(device) - before
                if cuda
                else saved_bytes(model, once)
            )
        finally:
            for p, grad in zip(parameters, kept, strict=True):
                p.grad = grad
    return Run(shape, len(inputs), min(times), model_bytes(model) + state + peak, state)


def saved_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that `run` keeps for its backward pass, the model's own tensors left out, each storage once."""
    own = _storages(model)
    seen: dict[int, tuple[int, Tensor]] = {}

    def pack(t: Tensor) -> Tensor:
        place = t.untyped_storage().data_ptr()
        if place not in own:
            seen[place] = (
                t.untyped_storage().nbytes(),
                t,
            )  # the tensor is held, so that no place is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(size for size, _ in seen.values())


def _storages(model: nn.Module) -> dict[int, int]:
    tensors = [*model.parameters(), *model.buffers()]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def _graft_names(model: nn.Module) -> list[str]:
    from graftwork.handle import grafts

    return list(grafts(model))
