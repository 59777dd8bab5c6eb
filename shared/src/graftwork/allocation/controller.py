"""When does a unit really switch? Votes and guards (SEA-PEFT, section 3.4, steps 1 and 5).

A unit whose wanted state differs from its present one gets a vote, agreement clears its votes; enough votes in a row
switch it, and then its guard keeps it as it is for some allocations, in which it gets no votes either.

Departures: audits leave votes and guards alone; units switch off before others switch on, and one that
does not fit yet keeps its votes, so the set in force fits the budget and its exclusions at every moment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from graftwork.allocation.knapsack import Exclusions, Item


class Switches(NamedTuple):
    """What one allocation changes: names in the order of the items."""

    on: list[str]
    up: list[str]
    down: list[str]


class Controller:
    """Votes and guards by unit; only units that have some are listed.

    Args:
        votes: in a row that switch a unit.
        guard: allocations after a switch in which nothing happens to it.
    """

    def __init__(self, votes: int = 3, guard: int = 3) -> None:
        self.needed, self.length = votes, guard
        self.votes: dict[str, int] = {}
        self.guards: dict[str, int] = {}

    def locked(self, active: Collection[str]) -> set[str]:
        """Active units whose guard will still hold at the coming allocation."""
        return {n for n, left in self.guards.items() if left > 0 and n in active}

    def decide(
        self,
        items: Iterable[Item],
        active: Collection[str],
        wanted: Collection[str],
        budget: int,
        excludes: Exclusions,
    ) -> Switches:
        """Count this allocation's votes and switch what is due.

        Args:
            items: all units, with values and costs.
            active: names of those that are on.
            wanted: names of those that should be.
            budget: parameters.
            excludes: by name, who cannot be on with it, siblings included.
        """
        items = list(items)
        ready: set[str] = set()
        for item in items:
            name = item.name
            if name in self.guards:
                self.guards[name] -= 1
                if self.guards[name] < 0:
                    del self.guards[name]
                else:
                    continue
            if (name in wanted) == (name in active):
                self.votes.pop(name, None)
                continue
            self.votes[name] = self.votes.get(name, 0) + 1
            if self.votes[name] >= self.needed:
                ready.add(name)
        down = [i.name for i in items if i.name in ready and i.name in active]
        on = {n for n in active if n not in down}
        costs: Mapping[str, int] = {i.name: i.cost for i in items}
        room = budget - sum(costs[n] for n in on)
        up: list[str] = []
        for item in sorted(items, key=lambda i: -i.value):
            clash = on & {*excludes.get(item.name, ())}
            if item.name in ready and item.name not in active and item.cost <= room and not clash:
                up.append(item.name)
                on.add(item.name)
                room -= item.cost
        for name in (*up, *down):
            self.votes.pop(name, None)
            if self.length:
                self.guards[name] = self.length
        return Switches(*([i.name for i in items if i.name in s] for s in (on, up, down)))

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"votes": dict(self.votes), "guards": dict(self.guards)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.votes, self.guards = dict(state["votes"]), dict(state["guards"])
