"""Which set is wanted? A greedy knapsack over groups (SEA-PEFT, section 3.4, steps 1 to 4).

Departures, each for a fault of the public code:

- Hysteresis compares an active unit's whole utility, value times cost, with h. Per parameter it could
  never act.
- An inactive unit without a positive value, or without room, does not stand for its group. Else a
  sibling that nobody ever audited drives out an active unit of slightly negative value.
- An active unit that does not fit any more is passed over, so the wanted set always fits.
- The best single unit, of those that stand for their groups, is taken where it is worth more than the
  greedy set. Where units are independent the better of the two has at least half of the optimal worth
  (the greedy set alone may have any small part of it); with groups, exclusions and locked units there is
  no such bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from graftwork.errors import GraftError


@dataclass(frozen=True)
class Item:
    """A unit in the allocator's eyes.

    Args:
        name: of the unit.
        cost: parameters.
        value: utility per parameter, optimistic.
        group: at most one item of a group is taken.
    """

    name: str
    cost: int
    value: float
    group: str

    @property
    def worth(self) -> float:
        """Utility that taking it promises."""
        return self.value * self.cost


Exclusions = Mapping[str, Collection[str]]


def solve(
    items: Iterable[Item],
    budget: int,
    *,
    active: Collection[str] = (),
    locked: Collection[str] = (),
    hysteresis: float = 0.0,
    excludes: Exclusions | None = None,
) -> list[str]:
    """The better of the greedy set and the best single item, beside what is locked.

    Args:
        items: all there are.
        budget: parameters, at least 0.
        active: names of those that are on: they win ties, and stay while their worth is at least -hysteresis.
        locked: names of active ones that stay whatever they are worth.
        hysteresis: in units of utility.
        excludes: by name, the names that cannot be taken with it; groups need not be repeated here.

    Returns:
        Names in the order of `items`; their cost is at most `budget`.

    Raises:
        GraftError: locked items that do not fit.
    """
    items = list(items)
    excludes = excludes or {}
    kept = [i for i in items if i.name in locked]
    room = budget - sum(i.cost for i in kept)
    if room < 0:
        raise GraftError(f"budget: {budget} parameters do not hold the units that are locked")
    contenders = [
        i
        for i in items
        if i.name not in locked
        and i.cost <= room
        and (i.worth >= -hysteresis if i.name in active else i.value > 0)
        and not any(_clash(i, k, excludes) for k in kept)
    ]
    standing = survivors(contenders, active)
    taken = greedy(standing, room, active, excludes)
    single = max(standing, key=lambda i: i.worth, default=None)
    # an active item that is only tolerated is not held against the set that it is in
    if single is not None and single.worth > sum(max(i.worth, 0.0) for i in taken):
        taken = [single]
    names = {i.name for i in (*kept, *taken)}
    return [i.name for i in items if i.name in names]


def survivors(items: Iterable[Item], active: Collection[str] = ()) -> list[Item]:
    """Of each group the item of highest value, in falling order; ties go to active ones."""

    def order(item: Item) -> tuple[float, bool]:
        return -item.value, item.name not in active

    best: dict[str, Item] = {}
    for item in sorted(items, key=order):
        best.setdefault(item.group, item)
    return list(best.values())


def greedy(
    items: Iterable[Item], budget: int, active: Collection[str], excludes: Exclusions
) -> list[Item]:
    """Survivors by falling value, each that still fits."""
    taken: list[Item] = []
    for item in survivors(items, active):
        if item.cost <= budget and not any(_clash(item, t, excludes) for t in taken):
            taken.append(item)
            budget -= item.cost
    return taken


def _clash(a: Item, b: Item, excludes: Exclusions) -> bool:
    return a.group == b.group or b.name in excludes.get(a.name, ())
