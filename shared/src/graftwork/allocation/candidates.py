"""Which sets compete at the end, and who wins? (SEA-PEFT, section 3.6, steps 3 and 4)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graftwork.allocation.knapsack import Exclusions, Item, solve

Names = tuple[str, ...]


def candidates(
    items: Sequence[Item],
    history: Sequence[Names],
    budget: int,
    excludes: Exclusions,
    kept: int = 5,
    swaps: int = 5,
) -> dict[Names, str]:
    """The last allocations, a solution without guards, votes and hysteresis, and swaps of the last one.

    Args:
        items: all units, with their values now.
        history: all allocations, oldest first.
        budget, excludes: as in `solve`.
        kept: how many of the last allocations.
        swaps: how many one-for-one changes of the last, those that promise most.

    Returns:
        Where each set comes from, by set; every set once.
    """
    out: dict[Names, str] = {}
    for names in reversed(history[-kept:]):
        out.setdefault(tuple(names), "allocation")
    out.setdefault(tuple(solve(items, budget, excludes=excludes)), "re-solve")
    last = set(history[-1]) if history else set()
    for names in _swapped(items, last, budget, excludes)[:swaps]:
        out.setdefault(names, "swap")
    return out


def _swapped(
    items: Sequence[Item], last: set[str], budget: int, excludes: Exclusions
) -> list[Names]:
    spent = sum(i.cost for i in items if i.name in last)
    found: list[tuple[float, int, Names]] = []
    for out in (i for i in items if i.name in last):
        rest = last - {out.name}
        for new in (i for i in items if i.name not in last and i.value > 0):
            clash = rest & {*excludes.get(new.name, ())}
            if spent - out.cost + new.cost <= budget and not clash:
                names = tuple(i.name for i in items if i.name in rest | {new.name})
                found.append((out.worth - new.worth, len(found), names))
    return [names for _, _, names in sorted(found)]


def rank(
    scores: Mapping[Names, float], items: Iterable[Item], history: Iterable[Names]
) -> list[dict[str, Any]]:
    """Candidates, the best first: by score, then fewer parameters, then how often their units were chosen,
    then the worth that they promise."""
    by_name = {i.name: i for i in items}
    chosen = Counter(n for names in history for n in names)
    rows = [
        {
            "set": list(names),
            "score": score,
            "cost": sum(by_name[n].cost for n in names),
            "chosen": sum(chosen[n] for n in names),
            "worth": sum(by_name[n].worth for n in names),
        }
        for names, score in scores.items()
    ]
    return sorted(rows, key=lambda r: (-r["score"], r["cost"], -r["chosen"], -r["worth"]))
