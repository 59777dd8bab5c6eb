"""What a step consists of: operations issued by phase, host time a site, and on a GPU the kernels.

    python -m benchmarks.speed --anatomy --table vision --cases vit --tiny --device cpu

An operation is what torch dispatches below autograd, views and allocations included: on a small batch the time to
issue them is the step's time. A GPU is not needed to count them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
from benchmarks.speed import families
from benchmarks.speed.measure import Case, Step, chosen, floor_of, waited
from benchmarks.timing import take_turns
from graftwork_runs import Row

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
PHASES = (FORWARD, BACKWARD, OPTIMIZER)
NOTES = [
    "operations: what torch dispatches below autograd in one step, views and allocations included.",
    "a site: of what comes on top of the floor, the share of one grafted layer, the optimizer left out.",
    "host: the median time until a step is handed over, without counting; on a CPU it is the wall time.",
    "kernel: time on the GPU by the kernel's name, as the profiler has it; the ten that exceed the floor's most.",
    "over: time on the GPU of one step by what its operations compute, above the floor's, in per cent of the floor's.",
    "waiting: the time of a step, three issued one after another, in which no kernel runs, above the floor's; so, too.",
]
#: steps that a host time is the median of
STEPS = 7
#: steps that are issued one after another before the device is waited for
BURST = 3
#: kernels that get a row
KERNELS = 10
#: of a step: all kernels of the GPU, or the time without one
ALL, WAITING = "all kernels", "waiting"
#: begins the metrics of what a step takes above its floor
OVER = "over: "


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
    spent: dict[str, Counter[str]] = {}
    rows: list[Row] = []
    for name, build in wanted.items():
        try:
            steps[name] = step = build()
            for _ in range(3):  # families are known and the optimizer's state is there
                step()
            counts[name] = operations(step)
            if cuda:
                kernels[name], spent[name] = _kernels(step)
        except (ImportError, torch.OutOfMemoryError, RuntimeError) as error:
            steps.pop(name, None)
            text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            rows.append(figure(case.name, name, "operations", None, note=text[:300]))
    host = _host(steps, cuda)
    for name, seconds in (_walls(steps) if cuda else {}).items():
        spent[name][WAITING] = 1000 * seconds - spent[name].total()
    for name in steps:
        rows += _told(case, name, counts, host)
        floor = floor_of(name)
        if floor in kernels and name in kernels and name != floor:
            rows += _over(case.name, name, kernels[name], kernels[floor])
            rows += shares(case.name, name, spent[name], spent[floor])
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


def _walls(steps: dict[str, Step]) -> dict[str, float]:
    """Seconds of a step on a GPU, the variants in turns."""
    seconds = take_turns(
        {name: functools.partial(_burst, step) for name, step in steps.items()},
        rounds=STEPS,
        warmup=1,
        clock=waited,
    )
    return {name: statistics.median(s) / BURST for name, s in seconds.items()}


def _burst(step: Step) -> None:
    for _ in range(BURST):
        step()


def _kernels(step: Step) -> tuple[dict[str, float], Counter[str]]:
    """Milliseconds on the GPU by kernel, where `launches` counts them; and by what the operations compute."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=both, record_shapes=True) as seen:
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
    by_family = families.milliseconds(seen.events())
    by_family[families.REST] = sum(total.values()) - total["launches"] - by_family.total()
    return total, by_family


def shares(case: str, name: str, own: Counter[str], floor: Counter[str]) -> list[Row]:
    """What each family takes above the floor's, in per cent of the floor's kernels."""
    whole = floor.total() - floor[WAITING]
    more = {f: own[f] - floor[f] for f in (*families.FAMILIES, WAITING)}
    more[ALL] = sum(more.values()) - more[WAITING]
    return [
        figure(case, name, f"{OVER}{f}", round(100 * m / whole, 2), "%", f"{m:.3f} ms")
        for f, m in more.items()
        if own[f] or floor[f] or f == ALL
    ]


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
