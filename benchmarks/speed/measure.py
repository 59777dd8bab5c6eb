"""Steps of several variants in turns: time over the floor, time to issue, peak memory, as a record's rows.

A variant is a name and a function that builds its step. A case is a set of variants on the same inputs, one of
them named `floor`; a variant whose name ends in `, compiled` or `, cuda graph` is compared with the floor that does.
"""

from __future__ import annotations

import fnmatch
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn

import graftwork as gw
from benchmarks.speed.limits import EAGER
from benchmarks.timing import median_row, take_turns
from graftwork.errors import GraftError
from graftwork_runs import Row

Step = Callable[[], object]
Build = Callable[[], Step]
#: ends the names of rows whose linear layers may run with changed weights in half precision
CHANGED = ", changed weights"
FLOOR, COMPILED, GRAPHED = "floor", ", compiled", ", cuda graph"
#: how the names of a mode's variants end
ENDS = {"eager": "", "compiled": COMPILED, "graphed": GRAPHED}


@dataclass(frozen=True)
class Case:
    """Variants that are measured on the same inputs.

    Args:
        name: the case's name in the record.
        variants: what builds each variant's step, by name; `floor` among them.
        prepare: makes what all variants share (a frozen base), before memory is counted.
        sites: how many layers a graft sits on; 0: not known.
    """

    name: str
    variants: dict[str, Build]
    prepare: Callable[[], object] = lambda: None
    sites: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Turns:
    """How a case is measured.

    Args:
        device: "cpu" or "cuda".
        rounds: figures per variant; each round runs each variant once, in a shuffled order.
        warmup: rounds that are not counted.
        burst: steps per figure, issued one after another and waited for at the end, as a training loop issues
            them.
        rows: globs over the variants' names; the floors are always measured.
        seconds: no variant is built after them; what is built by then is measured.
    """

    device: str = "cpu"
    rounds: int = 8
    warmup: int = 1
    burst: int = 3
    rows: Sequence[str] = ("*",)
    seconds: float = math.inf


@dataclass
class _Built:
    """A variant's step and the bytes that it holds between two steps (weights of its own, optimizer)."""

    step: Step
    held: int
    issue: list[float] = field(default_factory=list)


def graphed(model: nn.Module) -> Any:
    """A block in which the model's passes are recorded graphs; open until nobody holds it any more.

    A pass that cannot be recorded raises, so that no row shows plain passes under this name.
    """
    block = gw.recorded(model, tell=_refuse)
    block.__enter__()
    return block


def _refuse(line: str) -> None:
    raise RuntimeError(line)


def under(module: Any, switch: str, value: bool, work: Step) -> Step:
    """Steps under another value of a module's switch."""

    def run() -> object:
        with mock.patch.object(module, switch, value):
            return work()

    return run


def floor_of(name: str) -> str:
    """The floor that a variant is compared with."""
    return FLOOR + next((end for end in (COMPILED, GRAPHED) if name.endswith(end)), "")


def chosen(case: Case, rows: Sequence[str]) -> dict[str, Build]:
    """The variants that match a glob, and the floors that they are compared with.

    Raises:
        GraftError: a glob matches nothing.
    """
    for glob in rows:
        if not any(fnmatch.fnmatchcase(name, glob) for name in case.variants):
            raise GraftError(
                f"--rows {glob!r} matches no variant of the case {case.name!r}; "
                f"it has {', '.join(case.variants)}"
            )
    wanted = {n for n in case.variants if any(fnmatch.fnmatchcase(n, g) for g in rows)}
    wanted |= {floor_of(n) for n in wanted}
    return {n: build for n, build in case.variants.items() if n in wanted}


def measure(case: Case, turns: Turns) -> list[Row]:
    """The rows of a case: `step` in ms, `ratio to floor`, `issue` in ms and, on a GPU, `peak` in GiB.

    A variant that cannot be built or does not fit becomes one row without a value that says why.
    """
    cuda = turns.device.startswith("cuda")
    clock = waited if cuda else time.process_time
    allocated = torch.cuda.memory_allocated if cuda else lambda: 0
    wanted = chosen(case, turns.rows)
    case.prepare()
    shared = allocated()
    built: dict[str, _Built] = {}
    rows: list[Row] = []
    begun = time.perf_counter()
    for name, build in wanted.items():
        before = allocated()
        try:
            if time.perf_counter() - begun > turns.seconds:
                raise TimeoutError(f"not begun after {turns.seconds:g} s")
            step = build()
            for _ in range(
                2
            ):  # the optimizer's state is there, and families are known, from here on
                step()
            _collect(cuda)
        except Exception as error:  # compilers have errors of many kinds; the other variants go on
            rows.append(_absent(case.name, name, error))
            _collect(cuda)
            continue
        built[name] = _Built(step, allocated() - before)
    peaks = {name: _peak(b, shared) for name, b in built.items()} if cuda else {}
    seconds = take_turns(
        {name: _bursts(b, turns.burst) for name, b in built.items()},
        rounds=turns.rounds,
        warmup=turns.warmup,
        clock=clock,
    )
    for name, b in built.items():
        per_step = [s / turns.burst for s in seconds[name]]
        rows.append(median_row(case.name, name, "step", [1000 * s for s in per_step], "ms"))
        issue = [1000 * s / turns.burst for s in b.issue[turns.warmup :]]
        rows.append(median_row(case.name, name, "issue", issue, "ms"))
        floor = floor_of(name)
        if name != floor and floor in built:
            pairs = zip(seconds[name], seconds[floor], strict=True)
            rows.append(median_row(case.name, name, "ratio to floor", [a / f for a, f in pairs]))
        if floor != FLOOR and FLOOR in built:  # what a user gains who had neither before
            pairs = zip(seconds[name], seconds[FLOOR], strict=True)
            rows.append(median_row(case.name, name, EAGER, [a / f for a, f in pairs]))
        if name in peaks:
            gib = round(peaks[name] / 2**30, 3)
            rows.append(Row(case=case.name, variant=name, metric="peak", value=gib, unit="GiB"))
            if name != floor and floor in peaks:
                ratio = round(peaks[name] / peaks[floor], 4)
                rows.append(
                    Row(case=case.name, variant=name, metric="peak over floor", value=ratio)
                )
    return rows


def _bursts(built: _Built, burst: int) -> Step:
    def run() -> None:
        begun = time.perf_counter()
        for _ in range(burst):
            built.step()
        built.issue.append(time.perf_counter() - begun)

    return run


def waited() -> float:
    """The time at which the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _collect(cuda: bool) -> None:
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _peak(built: _Built, shared: int) -> int:
    """Bytes at the peak of a step, as if this variant were alone with what all variants share."""
    _collect(True)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    built.step()
    torch.cuda.synchronize()
    return shared + built.held + torch.cuda.max_memory_allocated() - before


def _absent(case: str, name: str, error: Exception) -> Row:
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Row(case=case, variant=name, metric="step", value=None, unit="ms", note=text[:300])
