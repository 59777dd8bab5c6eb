"""What does a pass of some tasks cost? A model of time and memory, fitted to measured runs.

    seconds = max(floor, a + b rows + p pairs) + c tasks + d_L pieces + q_L pairs
    bytes   = backbone + the state of every task on the card + fixed + (per_row + r_L) rows

`rows` are token rows of one forward and backward pass, padding included; `pairs` are what its attention computes. Below
the floor the device waits for launches, and another row is free. Terms with an L are what a layout has of its own: the
operations of its `pieces`, an attention that is slower under a mask. Memory counts the state of all tasks, in whichever
group they are: adapters and optimizer states stay on the card between their turns. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from graftwork.errors import GraftError
from graftwork.tenants.layouts import PLAIN, Shape, fewest_rows

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


#: the shapes that a pass of these loads may have
Shapes = Callable[[Sequence[TaskLoad]], Sequence[Shape]]


def real_rows(group: Sequence[TaskLoad]) -> list[Shape]:
    """A pass without any padding."""
    return [Shape(sum(load.rows for load in group))]


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
class Own:
    """What passes of one layout cost beside what all passes of their rows, pairs and tasks do.

    Args:
        per_piece, per_pair: d_L and q_L, seconds.
        row_bytes: r_L, bytes.

    Raises:
        GraftError: a figure that is negative or not finite.
    """

    per_piece: float = 0.0
    per_pair: float = 0.0
    row_bytes: float = 0.0

    def __post_init__(self) -> None:
        _check_figures(self)


@dataclass(frozen=True)
class CostModel:
    """Seconds and bytes of a pass.

    Args:
        floor: T_min, seconds below which no pass is.
        start, per_row, per_pair: a, b and p, seconds.
        per_task: c, seconds.
        backbone: bytes of the frozen model.
        fixed, row_bytes: bytes of a pass, and of each row of it.
        own: by layout, what it costs beside that; a layout that is not there was not timed.

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
    per_pair: float = 0.0
    own: Mapping[str, Own] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_figures(self)

    def seconds(self, shape: Shape, tasks: int = 1) -> float:
        """Of one pass of `tasks` tasks, their optimizer steps included."""
        own = self.own.get(shape.layout, NOTHING)
        shared = self.start + self.per_row * shape.rows + self.per_pair * shape.pairs
        more = own.per_piece * shape.pieces + own.per_pair * shape.pairs
        return max(self.floor, shared) + self.per_task * tasks + more

    def bytes(self, shape: Shape, state: int = 0) -> int:
        """At the peak of a pass while `state` bytes of tasks are on the device."""
        per_row = self.row_bytes + self.own.get(shape.layout, NOTHING).row_bytes
        return math.ceil(self.backbone + state + self.fixed + per_row * shape.rows)

    def least(self, shapes: Sequence[Shape], state: int = 0, cap: int | None = None) -> Shape:
        """Of the shapes that a pass may have the one of least predicted seconds.

        Of equals it is the one with fewer rows, then the first. Layouts that were not timed are passed over where one
        that was timed will do; where none was, the one with the fewest rows is taken.

        Args:
            shapes: at least one.
            state: bytes of all tasks on the device.
            cap: bytes at the peak; those above are passed over, and where all are, the smallest is taken.
        """
        good = [s for s in shapes if cap is None or self.bytes(s, state) <= cap]
        if not good:
            return min(shapes, key=lambda s: self.bytes(s, state))
        timed = [s for s in good if s.layout in self.own]
        if not timed:
            return fewest_rows(good)
        return min(timed, key=lambda s: (self.seconds(s), s.rows))

    def row(self) -> dict[str, Any]:
        """The model as plain JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> CostModel:
        """The inverse of `row`.

        Raises:
            GraftError: an unknown field or a figure out of range.
        """
        own = {layout: _known(Own, figures) for layout, figures in row.get("own", {}).items()}
        return _known(cls, {**row, "own": own})


#: what is read back from plain JSON
Figures = TypeVar("Figures", Own, CostModel)


@dataclass(frozen=True)
class Run:
    """One measured pass.

    Args:
        shape: of the pass.
        tasks: how many tasks had rows in it.
        seconds: of forward, backward and the optimizer steps.
        bytes: at its peak; `None` where nobody measured it.
        state: bytes of all tasks on the device at the time.
    """

    shape: Shape
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
    time = tuple(model.seconds(r.shape, r.tasks) / r.seconds - 1 for r in runs)
    memory = tuple(model.bytes(r.shape, r.state) / r.bytes - 1 for r in runs if r.bytes)
    return time, memory


def fit(runs: Iterable[Run], backbone: int = 0) -> Fit:
    """The cost model with the least squares of relative errors.

    Each threshold between a floor and the slope is tried; coefficients are at least 0. Where there are runs of two
    layouts or more, those other than the plain one get terms of their own.

    Args:
        runs: at least 3 of at least 2 sizes; those that measured memory need 2 sizes too.
        backbone: bytes of the frozen model.

    Raises:
        GraftError: too few runs, or one without a positive time, row and task.
    """
    runs = list(runs)
    for r in runs:
        if r.shape.rows < 1 or r.tasks < 1 or not (math.isfinite(r.seconds) and r.seconds > 0):
            raise GraftError(f"runs: {r} has no positive rows, tasks and seconds; measure it again")
    sizes = len({r.shape.rows for r in runs})
    if len(runs) < 3 or sizes < 2:
        raise GraftError(
            f"runs: {len(runs)} of {sizes} sizes; a fit of time needs 3 runs of 2 sizes or more"
        )
    names = sorted({r.shape.layout for r in runs} - {""})
    names = names if len(names) > 1 else []  # nothing to compare
    model = _fit_time(runs, names)
    measured = [r for r in runs if r.bytes]
    if measured and len({r.shape.rows for r in measured}) < 2:
        raise GraftError("runs: memory was measured at one size; a fit of memory needs 2 or more")
    model = replace(model, backbone=backbone)
    if measured:
        model = _fit_memory(measured, model)
    return Fit(model, *errors(model, runs))


def _fit_time(runs: Sequence[Run], names: Sequence[str]) -> CostModel:
    ordered = sorted(runs, key=lambda r: r.shape.rows)
    seconds = np.array([r.seconds for r in ordered])
    others = [name for name in names if name != PLAIN]
    best: tuple[float, CostModel] | None = None
    # the runs at the floor are the first k by rows: above them the slope leads
    for k in range(len(ordered) + 1):
        if 0 < k < len(ordered) and ordered[k - 1].shape.rows == ordered[k].shape.rows:
            continue
        columns = np.array([_terms(r, i >= k, others) for i, r in enumerate(ordered)])
        found = _non_negative(columns / seconds[:, None])
        floor, start, per_row, per_pair, per_task, *more = found
        own = {name: Own() for name in names}
        for i, name in enumerate(others):
            own[name] = Own(more[2 * i], more[2 * i + 1])
        model = CostModel(floor, start, per_row, per_task, per_pair=per_pair, own=own)
        lost = sum(e * e for e in errors(model, ordered)[0])
        if best is None or lost < best[0] - 1e-15:
            best = lost, model
    assert best is not None
    return best[1]


def _terms(run: Run, above: bool, others: Sequence[str]) -> list[float]:
    """What the seconds of a run are made of, above the floor or at it, in the order of `_fit_time`."""
    s = run.shape
    slope = [1, s.rows, s.pairs] if above else [0, 0, 0]
    own = [n for name in others for n in ((s.pieces, s.pairs) if s.layout == name else (0, 0))]
    return [float(v) for v in (not above, *slope, run.tasks, *own)]


def _fit_memory(runs: Sequence[Run], model: CostModel) -> CostModel:
    target = np.array([float(r.bytes or 0) for r in runs])
    rest = np.array([r.state + model.backbone for r in runs])
    others = [name for name in model.own if name != PLAIN]
    columns = np.array(
        [
            [1.0, r.shape.rows, *(r.shape.rows * (r.shape.layout == name) for name in others)]
            for r in runs
        ]
    )
    fixed, row_bytes, *more = _non_negative(columns / target[:, None], 1 - rest / target)
    own = {n: replace(model.own[n], row_bytes=b) for n, b in zip(others, more, strict=True)}
    return replace(model, fixed=fixed, row_bytes=row_bytes, own={**model.own, **own})


def _non_negative(columns: np.ndarray, target: np.ndarray | None = None) -> list[float]:
    """Least squares with coefficients of at least 0, over all sets of the few columns; the target is 1 by default."""
    rows, width = columns.shape
    wanted = np.ones(rows) if target is None else target
    scale = np.abs(columns).max(axis=0)
    there = np.flatnonzero(scale).tolist()
    best, found = float(wanted @ wanted), np.zeros(width)
    for size in range(1, len(there) + 1):
        for chosen in combinations(there, size):
            part = columns[:, chosen] / scale[list(chosen)]
            x, *_ = np.linalg.lstsq(part, wanted, rcond=None)
            gap = part @ x - wanted
            if (x >= 0).all() and gap @ gap < best - 1e-15:
                best, found = float(gap @ gap), np.zeros(width)
                found[list(chosen)] = x / scale[list(chosen)]
    return [float(v) for v in found]


def _known(kind: type[Figures], row: Mapping[str, Any]) -> Figures:
    unknown = sorted({*row} - {f.name for f in fields(kind)})
    if unknown:
        raise GraftError(f"{kind.__name__}: unknown field {unknown[0]!r}")
    return kind(**row)


def _check_figures(figures: Own | CostModel) -> None:
    for f in fields(figures):
        value = getattr(figures, f.name)
        if f.name != "own" and (not math.isfinite(value) or value < 0):
            kind = type(figures).__name__
            raise GraftError(f"{kind}: {f.name} is {value}; give a number of at least 0")


#: of a layout without terms of its own
NOTHING = Own()


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    sizes = [abs(v) for v in values]
    return f"off by {sum(sizes) / len(sizes):.1%} on average, {max(sizes):.1%} at most"
