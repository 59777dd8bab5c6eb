"""What does a pass of some tasks cost? A model of time and memory, fitted to measured runs.

    seconds = max(floor, a + b rows) + c tasks
    bytes   = backbone + the state of every task on the card + fixed + per_row rows

`rows` are token rows of one forward and backward pass, padding included. Below the floor the device waits for
launches, and another row is free. Memory counts the state of all tasks, in whichever group they are: adapters and
optimizer states stay on the card between their turns. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np

from graftwork.errors import GraftError

#: bytes beside weight and gradient that Adam keeps per trained number: two moments in float32
ADAM_BYTES = 8


@dataclass(frozen=True)
class TaskLoad:
    """What one task brings to a step.

    Args:
        name: of the task.
        lengths: real tokens of each sequence (or rows of each sample) of one step.
        state: bytes that stay on the device while the task is there: adapter, gradients, optimizer.
        priority: its weight in the sharing of time.
        kind: of its rows, such as their shape; tasks of two kinds cannot share a pass.

    Raises:
        GraftError: no name, a length below 1, a negative state, or a priority that is not above 0.
    """

    name: str
    lengths: tuple[int, ...]
    state: int = 0
    priority: float = 1.0
    kind: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        if not self.name:
            raise GraftError("name: a task needs a name")
        if not self.lengths:
            raise GraftError(f"lengths: task {self.name!r} has no sequence in its step")
        for n in self.lengths:
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise GraftError(
                    f"lengths: task {self.name!r} has a length of {n!r}; they are whole numbers of at least 1"
                )
        if self.state < 0:
            raise GraftError(f"state: task {self.name!r} has {self.state} bytes; give at least 0")
        if not (math.isfinite(self.priority) and self.priority > 0):
            raise GraftError(
                f"priority: task {self.name!r} has {self.priority}; give a number above 0"
            )

    @property
    def rows(self) -> int:
        """Real rows of a step."""
        return sum(self.lengths)


#: the rows that a pass of these loads has, padding included
Rows = Callable[[Sequence[TaskLoad]], int]


def real_rows(group: Sequence[TaskLoad]) -> int:
    """Rows of a pass without any padding."""
    return sum(load.rows for load in group)


def state_bytes(
    parameters: int, item: int = 4, optimizer: int = ADAM_BYTES, master: int = 0
) -> int:
    """Bytes of one task's trained state.

    Args:
        parameters: how many numbers train.
        item: bytes of one, of its weight and again of its gradient.
        optimizer: bytes that the optimizer keeps for each.
        master: bytes of a second copy of the weights in float32; 0 without.
    """
    return parameters * (2 * item + optimizer + master)


@dataclass(frozen=True)
class CostModel:
    """Seconds and bytes of a pass.

    Args:
        floor: T_min, seconds below which no pass is.
        start, per_row: a and b, seconds.
        per_task: c, seconds.
        backbone: bytes of the frozen model.
        fixed, row_bytes: bytes of a pass, and of each row of it.

    Raises:
        GraftError: a figure that is negative or not finite.
    """

    floor: float = 0.0
    start: float = 0.0
    per_row: float = 0.0
    per_task: float = 0.0
    backbone: int = 0
    fixed: float = 0.0
    row_bytes: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise GraftError(f"CostModel: {field.name} is {value}; give a number of at least 0")

    def seconds(self, rows: int, tasks: int = 1) -> float:
        """Of one pass of `rows` rows of `tasks` tasks, their optimizer steps included."""
        return max(self.floor, self.start + self.per_row * rows) + self.per_task * tasks

    def bytes(self, rows: int, state: int = 0) -> int:
        """At the peak of a pass of `rows` rows while `state` bytes of tasks are on the device."""
        return math.ceil(self.backbone + state + self.fixed + self.row_bytes * rows)

    def row(self) -> dict[str, Any]:
        """The model as plain JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> CostModel:
        """The inverse of `row`.

        Raises:
            GraftError: an unknown field or a figure out of range.
        """
        unknown = sorted({*row} - {f.name for f in fields(cls)})
        if unknown:
            raise GraftError(f"CostModel: unknown field {unknown[0]!r}")
        return cls(**row)


@dataclass(frozen=True)
class Run:
    """One measured pass.

    Args:
        rows: token rows, padding included.
        tasks: how many tasks had rows in it.
        seconds: of forward, backward and the optimizer steps.
        bytes: at its peak; `None` where nobody measured it.
        state: bytes of all tasks on the device at the time.
    """

    rows: int
    tasks: int
    seconds: float
    bytes: int | None = None
    state: int = 0


@dataclass(frozen=True)
class Fit:
    """A cost model and how far it is from the runs that it was fitted to.

    Attributes:
        model: the model.
        time_errors, memory_errors: predicted over measured less 1, in the order of the runs; of memory, of those
            that measured it.
    """

    model: CostModel
    time_errors: tuple[float, ...]
    memory_errors: tuple[float, ...]

    def __str__(self) -> str:
        time, memory = _spread(self.time_errors), _spread(self.memory_errors)
        return f"time {time}; memory {memory}"


def errors(model: CostModel, runs: Iterable[Run]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Predicted over measured less 1, of time and of memory; for runs that a model was not fitted to as well."""
    runs = list(runs)
    time = tuple(model.seconds(r.rows, r.tasks) / r.seconds - 1 for r in runs)
    memory = tuple(model.bytes(r.rows, r.state) / r.bytes - 1 for r in runs if r.bytes)
    return time, memory


def fit(runs: Iterable[Run], backbone: int = 0) -> Fit:
    """The cost model with the least squares of relative errors.

    Each threshold between a floor and the slope is tried; coefficients are at least 0.

    Args:
        runs: at least 3 of at least 2 sizes; those that measured memory need 2 sizes too.
        backbone: bytes of the frozen model.

    Raises:
        GraftError: too few runs, or one without a positive time, row and task.
    """
    runs = list(runs)
    for r in runs:
        if r.rows < 1 or r.tasks < 1 or not (math.isfinite(r.seconds) and r.seconds > 0):
            raise GraftError(f"runs: {r} has no positive rows, tasks and seconds; measure it again")
    if len(runs) < 3 or len({r.rows for r in runs}) < 2:
        raise GraftError(
            f"runs: {len(runs)} of {len({r.rows for r in runs})} sizes; a fit of time needs 3 runs of 2 sizes or more"
        )
    floor, start, per_row, per_task = _fit_time(runs)
    measured = [r for r in runs if r.bytes]
    if measured and len({r.rows for r in measured}) < 2:
        raise GraftError("runs: memory was measured at one size; a fit of memory needs 2 or more")
    fixed, row_bytes = _fit_memory(measured, backbone) if measured else (0.0, 0.0)
    model = CostModel(floor, start, per_row, per_task, backbone, fixed, row_bytes)
    return Fit(model, *errors(model, runs))


def _fit_time(runs: Sequence[Run]) -> tuple[float, float, float, float]:
    ordered = sorted(runs, key=lambda r: r.rows)
    seconds = np.array([r.seconds for r in ordered])
    best: tuple[float, tuple[float, float, float, float]] | None = None
    # the runs at the floor are the first k by rows: above them the slope leads
    for k in range(len(ordered) + 1):
        if 0 < k < len(ordered) and ordered[k - 1].rows == ordered[k].rows:
            continue
        columns = np.array(
            [
                [float(i < k), float(i >= k), r.rows * float(i >= k), r.tasks]
                for i, r in enumerate(ordered)
            ]
        )
        floor, start, per_row, per_task = _non_negative(columns / seconds[:, None])
        model = CostModel(floor, start, per_row, per_task)
        lost = sum(e * e for e in errors(model, ordered)[0])
        if best is None or lost < best[0] - 1e-15:
            best = lost, (floor, start, per_row, per_task)
    assert best is not None
    return best[1]


def _fit_memory(runs: Sequence[Run], backbone: int) -> tuple[float, float]:
    target = np.array([float(r.bytes or 0) for r in runs])
    rest = np.array([r.state + backbone for r in runs])
    columns = np.array([[1.0, float(r.rows)] for r in runs])
    fixed, row_bytes = _non_negative(columns / target[:, None], 1 - rest / target)
    return fixed, row_bytes


def _non_negative(columns: np.ndarray, target: np.ndarray | None = None) -> list[float]:
    """Least squares with coefficients of at least 0, over all sets of the few columns; the target is 1 by default."""
    rows, width = columns.shape
    wanted = np.ones(rows) if target is None else target
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    best, found = float(wanted @ wanted), np.zeros(width)
    for size in range(1, width + 1):
        for chosen in combinations(range(width), size):
            part = columns[:, chosen] / scale[list(chosen)]
            x, *_ = np.linalg.lstsq(part, wanted, rcond=None)
            gap = part @ x - wanted
            if (x >= 0).all() and gap @ gap < best - 1e-15:
                best, found = float(gap @ gap), np.zeros(width)
                found[list(chosen)] = x / scale[list(chosen)]
    return [float(v) for v in found]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    sizes = [abs(v) for v in values]
    return f"off by {sum(sizes) / len(sizes):.1%} on average, {max(sizes):.1%} at most"
