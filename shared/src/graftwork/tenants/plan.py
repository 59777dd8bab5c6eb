"""Which tasks run together? A partition into hybrid tasks under a memory cap (MuxTune, arXiv 2603.02885).

The paper's search was not published. Ours: the tasks are sorted by their rows, and dynamic programming finds the
cheapest partition into neighbours,

    best[j] = min over i < j of best[i] + T(i..j),   where T(i..j) is admitted;

up to `EXHAUSTIVE` tasks every partition is looked at. T(G) and M(G) are those of the layout that the cost model takes
for the group. A group is admitted when

1. its rows are of one kind and its pass fits: M(G) <= cap, and
2. it is fair: T(G) <= p(G) / p(t) T({t}) / f for each member t, where p(G) is the sum of its members' priorities. With
   turns that give each group the share p(G) / p of the time, each task then has at least the fraction f of the steps
   that it would have alone in the share p(t) / p: of m tasks of one priority, in an m-th of the time.

A task alone is always fair, so there is a plan whenever each task fits alone. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graftwork.errors import GraftError
from graftwork.tenants.cost import CostModel, Shapes, TaskLoad, real_rows
from graftwork.tenants.layouts import Shape

#: up to this many tasks all set partitions are compared (4,140 of 8)
EXHAUSTIVE = 8
#: passes of a cycle that `turns` may take to come near the shares of time
CYCLE = 512

Group = tuple[str, ...]


@dataclass(frozen=True)
class Predicted:
    """What the cost model says of a partition.

    Attributes:
        groups: names of the tasks that run in one pass.
        shapes: of the groups' passes.
        seconds: of one step of every task, a pass of each group.
        bytes: at the peak.
        fits: whether that is within the cap, and each group's rows are of one kind.
        fair: whether each group is.
    """

    groups: tuple[Group, ...]
    shapes: tuple[Shape, ...]
    seconds: float
    bytes: int
    fits: bool
    fair: bool

    @property
    def admitted(self) -> bool:
        """Whether the planner may choose it."""
        return self.fits and self.fair


@dataclass(frozen=True)
class Plan:
    """The chosen partition, beside the simple ones.

    Attributes:
        chosen: the partition and its cost.
        alone: each task in a group of its own.
        together: all tasks in one group.
        turns: passes of each group in a cycle; one each wherever that is fair to tasks of one priority.
        fairness: the smallest of the tasks' shares: steps per second over those that it would have alone in its
            priority's part of the time; 1 is a task that lost nothing.
        exhaustive: whether all partitions were compared.
        cap: bytes; `None` for no cap.
    """

    chosen: Predicted
    alone: Predicted
    together: Predicted
    turns: tuple[int, ...]
    fairness: float
    exhaustive: bool
    cap: int | None

    @property
    def groups(self) -> tuple[Group, ...]:
        """Names of the tasks of each hybrid task, in the order of their turns."""
        return self.chosen.groups

    def cycle(self) -> Iterator[Group]:
        """The groups of one cycle, each as often as its turns say, evenly spread."""
        places = [((k + 0.5) / n, index) for index, n in enumerate(self.turns) for k in range(n)]
        for _, index in sorted(places):
            yield self.groups[index]

    def __str__(self) -> str:
        names = " | ".join(
            " + ".join(g) + (f" {s.layout}" if s.layout else "")
            for g, s in zip(self.groups, self.chosen.shapes, strict=True)
        )
        return (
            f"{names}: {1e3 * self.chosen.seconds:.4g} ms a step of each, {self.chosen.bytes / 2**20:,.0f} MiB "
            f"(alone {1e3 * self.alone.seconds:.4g} ms, together {1e3 * self.together.seconds:.4g} ms)"
        )


class Planner:
    """Finds plans for one backbone.

    Args:
        cost: of a pass.
        cap: bytes that a pass may take at its peak; `None` for no cap.
        fairness: f in (0, 1]: of what a task gets alone in its share of the time, what it must get in a group.
        shapes: that a pass of some loads may have, of which it takes that of least predicted seconds within the cap;
            without, one of the real rows (packed without a gap).

    Raises:
        GraftError: a fairness outside (0, 1], or a cap under the memory of the backbone.
    """

    def __init__(
        self,
        cost: CostModel,
        *,
        cap: int | None = None,
        fairness: float = 0.5,
        shapes: Shapes = real_rows,
    ) -> None:
        if not 0 < fairness <= 1:
            raise GraftError(f"fairness must lie in (0, 1], not {fairness}")
        if cap is not None and cap < cost.backbone:
            raise GraftError(
                f"cap: {cap:,} bytes are under the {cost.backbone:,} of the backbone alone; raise the cap or take a "
                "smaller or quantised base"
            )
        self.cost, self.cap, self.fairness, self.shapes = cost, cap, fairness, shapes
        self._taken: dict[tuple[int, tuple[TaskLoad, ...]], Shape] = {}

    def plan(self, loads: Iterable[TaskLoad]) -> Plan:
        """The cheapest admitted partition.

        Raises:
            GraftError: no task, two of one name, or tasks that do not fit even alone (by name).
        """
        loads = sorted(loads, key=_order)
        _check_names(loads)
        state = sum(load.state for load in loads)
        solo = {load.name: self.seconds([load], state) for load in loads}
        lost = [load.name for load in loads if not self._fits([load], state)]
        if lost:
            raise GraftError(
                f"cap: {self.cap:,} bytes do not hold {', '.join(map(repr, lost))} even alone, beside the backbone and "
                f"the {state:,} bytes of all tasks' adapters and optimizers; raise the cap, shorten its batch or train "
                "fewer tasks"
            )
        exhaustive = len(loads) <= EXHAUSTIVE
        groups = (
            self._of_all(loads, state, solo) if exhaustive else self._neighbours(loads, state, solo)
        )
        chosen = self._predict(groups, state, solo)
        turns = self._turns(groups, state, solo)
        return Plan(
            chosen,
            self._predict([[load] for load in loads], state, solo),
            self._predict([loads], state, solo),
            turns,
            self._least_share(groups, turns, state, solo),
            exhaustive,
            self.cap,
        )

    def neighbours(self, loads: Iterable[TaskLoad]) -> Predicted:
        """The cheapest admitted partition into neighbours by rows, whatever the number of tasks.

        Raises:
            GraftError: no partition into neighbours is admitted; `plan` says why.
        """
        loads = sorted(loads, key=_order)
        _check_names(loads)
        state = sum(load.state for load in loads)
        solo = {load.name: self.seconds([load], state) for load in loads}
        return self._predict(self._neighbours(loads, state, solo), state, solo)

    def shape(self, group: Sequence[TaskLoad], state: int) -> Shape:
        """Of a pass of a group while all tasks' `state` bytes are there."""
        key = state, tuple(group)
        if key not in self._taken:
            self._taken[key] = self.cost.least(self.shapes(group), state, self.cap)
        return self._taken[key]

    def seconds(self, group: Sequence[TaskLoad], state: int) -> float:
        """T(G): of one pass of a group."""
        return self.cost.seconds(self.shape(group, state), len(group))

    def bytes(self, group: Sequence[TaskLoad], state: int) -> int:
        """M(G): at the peak of a pass of a group."""
        return self.cost.bytes(self.shape(group, state), state)

    def _fits(self, group: Sequence[TaskLoad], state: int) -> bool:
        if len({load.kind for load in group}) > 1:
            return False
        return self.cap is None or self.bytes(group, state) <= self.cap

    def _fair(self, group: Sequence[TaskLoad], state: int, solo: dict[str, float]) -> bool:
        bound = _weight(group) * min(solo[t.name] / t.priority for t in group) / self.fairness
        return self.seconds(group, state) <= bound * (1 + 1e-12)

    def _admitted(self, group: Sequence[TaskLoad], state: int, solo: dict[str, float]) -> bool:
        # a task alone is fair by definition; its own overhead must not exclude it
        return self._fits(group, state) and (len(group) == 1 or self._fair(group, state, solo))

    def _neighbours(
        self, loads: list[TaskLoad], state: int, solo: dict[str, float]
    ) -> list[list[TaskLoad]]:
        count = len(loads)
        best: list[tuple[float, int]] = [(0.0, 0)]
        for j in range(1, count + 1):
            options = [
                (best[i][0] + self.seconds(loads[i:j], state), i)
                for i in range(j)
                if self._admitted(loads[i:j], state, solo)
            ]
            if not options:
                raise GraftError(f"cap: {loads[j - 1].name!r} does not fit alone")
            best.append(min(options))
        cuts = [count]
        while cuts[-1] > 0:
            cuts.append(best[cuts[-1]][1])
        return [loads[i:j] for i, j in pairwise(reversed(cuts))]

    def _of_all(
        self, loads: list[TaskLoad], state: int, solo: dict[str, float]
    ) -> list[list[TaskLoad]]:
        """Ties go to the partition into neighbours."""
        priced: dict[Group, float] = {}

        def price(group: list[TaskLoad]) -> float:
            names = tuple(load.name for load in group)
            if names not in priced:
                good = self._admitted(group, state, solo)
                priced[names] = self.seconds(group, state) if good else math.inf
            return priced[names]

        best = self._neighbours(loads, state, solo)
        least = sum(map(price, best))
        for groups in partitions(loads):
            total = sum(map(price, groups))
            if total < least * (1 - 1e-12):
                best, least = groups, total
        return best

    def _predict(
        self, groups: Sequence[Sequence[TaskLoad]], state: int, solo: dict[str, float]
    ) -> Predicted:
        return Predicted(
            tuple(tuple(load.name for load in g) for g in groups),
            tuple(self.shape(g, state) for g in groups),
            sum(self.seconds(g, state) for g in groups),
            max(self.bytes(g, state) for g in groups),
            all(self._fits(g, state) for g in groups),
            all(len(g) == 1 or self._fair(g, state, solo) for g in groups),
        )

    def _turns(
        self, groups: Sequence[Sequence[TaskLoad]], state: int, solo: dict[str, float]
    ) -> tuple[int, ...]:
        """Passes of each group in a cycle: one where that is fair, else so that its time comes near p(G) / p."""
        once = (1,) * len(groups)
        equal = len({load.priority for g in groups for load in g}) == 1
        if equal and self._least_share(groups, once, state, solo) >= self.fairness:
            return once
        rates = [_weight(g) / self.seconds(g, state) for g in groups]
        slowest = min(rates)
        return _rounded([r / slowest for r in rates])

    def _least_share(
        self,
        groups: Sequence[Sequence[TaskLoad]],
        turns: Sequence[int],
        state: int,
        solo: dict[str, float],
    ) -> float:
        cycle = sum(n * self.seconds(g, state) for g, n in zip(groups, turns, strict=True))
        weight = sum(map(_weight, groups))
        return min(
            n / cycle * weight / load.priority * solo[load.name]
            for g, n in zip(groups, turns, strict=True)
            for load in g
        )


def partitions(items: Sequence[TaskLoad]) -> Iterator[list[list[TaskLoad]]]:
    """All partitions of `items` into groups, each group in the order of `items`."""
    if not items:
        yield []
        return
    *rest, last = items
    for groups in partitions(rest):
        for k in range(len(groups)):
            yield [[*g, last] if i == k else g for i, g in enumerate(groups)]
        yield [*groups, [last]]


def _rounded(rates: Sequence[float], slack: float = 0.02) -> tuple[int, ...]:
    """The smallest whole numbers in these proportions, each within `slack`; of cycles that are too long, the best."""
    best: tuple[float, tuple[int, ...]] | None = None
    scale = 1
    while best is None or scale * sum(rates) <= CYCLE:
        turns = tuple(max(1, round(scale * r)) for r in rates)
        off = max(abs(n / (scale * r) - 1) for n, r in zip(turns, rates, strict=True))
        if best is None or off < best[0]:
            best = off, turns
        if off <= slack:
            break
        scale += 1
    return best[1]


def _order(load: TaskLoad) -> tuple[str, int, str]:
    return load.kind, load.rows, load.name


def _weight(group: Sequence[TaskLoad]) -> float:
    return sum(load.priority for load in group)


def _check_names(loads: Sequence[TaskLoad]) -> None:
    if not loads:
        raise GraftError("tasks: there is none to plan for")
    names = [load.name for load in loads]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise GraftError(f"name: two tasks are called {twice[0]!r}; give each its own name")
