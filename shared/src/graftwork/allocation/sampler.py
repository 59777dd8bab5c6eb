"""Which units does the next audit look at? (SEA-PEFT, section 3.5)

Overdue units first. The free places go mostly to active units: at random in the first audits, then half
to the least probed and the rest to the most uncertain.

Departure: overdue units are taken oldest first, not shuffled. So no unit waits more than
`debt + ceil(units / sample)` audits. What is drawn is a function of (seed, audit), so a resumed search draws
what the uninterrupted one would have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Sampler:
    """Counts and waiting times by unit.

    Args:
        names: of all units.
        share: of them that an audit looks at; at least one unit.
        debt: audits without a unit after which it is overdue.
        active_share: of the free places, those for active units.
        uniform: first audits that draw at random.
        seed: of the draws.
    """

    def __init__(
        self,
        names: Sequence[str],
        share: float = 0.2,
        debt: int = 6,
        active_share: float = 0.9,
        uniform: int = 3,
        seed: int = 0,
    ) -> None:
        self.names, self.debt, self.seed = list(names), debt, seed
        self.size = min(len(self.names), max(1, math.ceil(share * len(self.names))))
        self.active_share, self.uniform = active_share, uniform
        self.audit = 0
        self.last = dict.fromkeys(self.names, -1)
        self.probes = dict.fromkeys(self.names, 0)

    def draw(self, active: Iterable[str], unsure: Mapping[str, float]) -> list[str]:
        """The next audit's units, in the order of `names`.

        Args:
            active: units that are on.
            unsure: uncertainty by unit; those that are missing count as 0.
        """
        draw = random.Random(f"audit {self.audit} of seed {self.seed}")
        wait = {n: self.audit - self.last[n] for n in self.names}
        overdue = sorted((n for n in self.names if wait[n] > self.debt), key=lambda n: -wait[n])
        chosen = overdue[: self.size]
        free = self.size - len(chosen)
        taken, on = set(chosen), set(active)
        pools = [
            [n for n in self.names if n not in taken and (n in on) == wanted]
            for wanted in (True, False)
        ]
        first = min(round(self.active_share * free), len(pools[0]))
        second = min(free - first, len(pools[1]))
        places = (min(free - second, len(pools[0])), second)
        for pool, count in zip(pools, places, strict=True):
            chosen += self._pick(draw, pool, count, unsure)
        for name in chosen:
            self.last[name] = self.audit
            self.probes[name] += 1
        self.audit += 1
        return [n for n in self.names if n in set(chosen)]

    def _pick(
        self, draw: random.Random, pool: list[str], count: int, unsure: Mapping[str, float]
    ) -> list[str]:
        pool = draw.sample(pool, len(pool))  # ties fall at random
        if self.audit < self.uniform:
            return pool[:count]
        rare = sorted(pool, key=lambda n: self.probes[n])[: (count + 1) // 2]
        rest = [n for n in pool if n not in set(rare)]
        return rare + sorted(rest, key=lambda n: -unsure.get(n, 0.0))[: count - len(rare)]

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"audit": self.audit, "last": dict(self.last), "probes": dict(self.probes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.audit = state["audit"]
        self.last, self.probes = dict(state["last"]), dict(state["probes"])
