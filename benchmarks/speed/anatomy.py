"""What a step consists of: operations issued by phase, host time a site, and on a GPU the kernels by name.

    python -m benchmarks.speed --anatomy --table vision --cases vit --tiny --device cpu

An operation is what torch dispatches below autograd, views and allocations included: on a small batch the time to
issue them is the step's time. A GPU is not needed to count them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.rows import figure
from benchmarks.speed.measure import Case, Step, chosen, floor_of
from graftwork_runs import Row

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
PHASES = (FORWARD, BACKWARD, OPTIMIZER)
NOTES = [
    "operations: what torch dispatches below autograd in one step, views and allocations included.",
    "a site: of what comes on top of the floor, the share of one grafted layer, the optimizer left out.",
    "host: the median time until a step is handed over, without counting; on a CPU it is the wall time.",
    "kernel: time on the GPU by the kernel's name, as the profiler has it; the ten that exceed the floor's most.",
]
#: steps that a host time is the median of
STEPS = 7
#: kernels that get a row
KERNELS = 10


class Counting(TorchDispatchMode):
    """Counts operations by phase: `found[phase][name]`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Counter[str]] = {phase: Counter() for phase in PHASES}
        self.optimizing = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("_record_function"):  # marks for a profiler
            return func(*args, **(kwargs or {}))
        inside = torch._C._current_graph_task_id() != -1
        phase = OPTIMIZER if self.optimizing else BACKWARD if inside else FORWARD
        self.found[phase][name] += 1
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def listening(self) -> Iterator[Counting]:
        """Count what is issued in the block."""

        def switch(on: bool) -> Any:
            return lambda *_: setattr(self, "optimizing", on)

        before = register_optimizer_step_pre_hook(switch(True))
        after = register_optimizer_step_post_hook(switch(False))
        try:
            with self:
                yield self
        finally:
            before.remove()
            after.remove()


def operations(step: Step) -> dict[str, Counter[str]]:
    """The operations of one step by phase and name."""
    with Counting().listening() as counting:
        step()
    return counting.found


def anatomy(case: Case, options: argparse.Namespace) -> list[Row]:
    """The rows of a case; a variant that cannot be built has one that says why."""
    cuda = options.device == "cuda"
    case.prepare()
    wanted = chosen(case, options.rows)
    steps: dict[str, Step] = {}
    counts: dict[str, dict[str, Counter[str]]] = {}
    kernels: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    for name, build in wanted.items():
        try:
            steps[name] = step = build()
            for _ in range(3):  # families are known and the optimizer's state is there
                step()
            counts[name] = operations(step)
            if cuda:
                kernels[name] = _kernels(step)
        except (ImportError, torch.OutOfMemoryError, RuntimeError) as error:
            steps.pop(name, None)
            text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            rows.append(figure(case.name, name, "operations", None, note=text[:300]))
    host = _host(steps, cuda)
    for name in steps:
        rows += _told(case, name, counts, host)
        floor = floor_of(name)
        if floor in kernels and name in kernels and name != floor:
            rows += _over(case.name, name, kernels[name], kernels[floor])
    return rows


def _told(
    case: Case, name: str, counts: dict[str, dict[str, Counter[str]]], host: dict[str, float]
) -> list[Row]:
    found, floor = counts[name], floor_of(name)
    rows = [
        figure(case.name, name, f"operations, {phase}", sum(found[phase].values()))
        for phase in PHASES
    ]
    rows.append(figure(case.name, name, "host", round(1000 * host[name], 3), "ms"))
    sites = case.sites()
    if name == floor or floor not in counts or not sites:
        return rows
    for phase in (FORWARD, BACKWARD):
        more = found[phase] - counts[floor][phase]
        over = sum(found[phase].values()) - sum(counts[floor][phase].values())
        names = ", ".join(f"{n} {c / sites:.3g}" for n, c in more.most_common(12))
        rows.append(
            figure(
                case.name, name, f"operations a site, {phase}", round(over / sites, 3), note=names
            )
        )
    spent = 1e6 * (host[name] - host[floor]) / sites
    rows.append(figure(case.name, name, "host a site", round(spent, 2), "us"))
    return rows


def _host(steps: dict[str, Step], cuda: bool) -> dict[str, float]:
    """Seconds until a step is handed over, the variants in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(STEPS):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
            if cuda:
                torch.cuda.synchronize()
    return {name: statistics.median(s) for name, s in seconds.items()}


def _kernels(step: Step) -> dict[str, float]:
    """Milliseconds on the GPU by kernel; `launches` counts them."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    total: dict[str, float] = {"launches": 0.0}
    for event in seen.events():
        # what torch marks on the device's line spans kernels that stand there, too
        marked = event.name.startswith(("ProfilerStep", "Optimizer."))
        if event.device_type == DeviceType.CUDA and not marked:
            spent = event.time_range.elapsed_us() / 1000
            total[event.name] = total.get(event.name, 0.0) + spent
            total["launches"] += 1
    return total


def _over(case: str, name: str, own: dict[str, float], floor: dict[str, float]) -> list[Row]:
    """What the kernels take on top of the floor's, the largest first."""
    own, floor = dict(own), dict(floor)
    launches, less = own.pop("launches"), floor.pop("launches")
    rows = [
        figure(case, name, "kernels", launches, note=f"the floor has {less:.0f}"),
        figure(
            case, name, "kernel time", round(sum(own.values()), 3), "ms",
            f"the floor has {sum(floor.values()):.3f}",
        ),
    ]  # fmt: skip
    more = {k: own.get(k, 0.0) - floor.get(k, 0.0) for k in {*own, *floor}}
    largest = sorted(more, key=lambda k: -abs(more[k]))[:KERNELS]
    return rows + [
        figure(case, name, f"kernel: {k[:150]}", round(more[k], 3), "ms") for k in largest
    ]
