"""What a graft amounts to, as a table people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.algebra import quantised

if TYPE_CHECKING:
    from graftwork.handle import Graft


@dataclass(frozen=True)
class Summary:
    """Counts of one graft.

    Attributes:
        rows: (site, kind, trainable parameters) in model order.
        trainable: trainable parameters of the graft.
        base: parameters of the frozen base.
        left_out: layers that are no site, with the reason.
    """

    name: str
    method: str
    rows: tuple[tuple[str, str, int], ...]
    trainable: int
    base: int
    left_out: tuple[tuple[str, str], ...]

    @property
    def share(self) -> float:
        """Trainable parameters over the base's, between 0 and 1 for any sensible graft."""
        return self.trainable / max(1, self.base)

    def __str__(self) -> str:
        shown = (
            self.rows
            if len(self.rows) <= 12
            else (*self.rows[:6], ("...", "", -1), *self.rows[-5:])
        )
        width = max([len(r[0]) for r in shown] + [4])
        lines = [
            f"graft {self.name!r}: {self.method}",
            f"  {'site':<{width}}  {'kind':<18} {'parameters':>12}",
        ]
        for site, kind, n in shown:
            lines.append(
                f"  {site or '(model)':<{width}}  {kind:<18} {'' if n < 0 else format(n, ',d'):>12}"
            )
        lines.append(
            f"  {len(self.rows)} sites, {self.trainable:,d} trainable parameters, "
            f"{100 * self.share:.3g} % of the base's {self.base:,d}"
        )
        if self.left_out:
            reasons: dict[str, int] = {}
            for _, why in self.left_out:
                reasons[why] = reasons.get(why, 0) + 1
            lines += [f"  left out: {n} x {why}" for why, n in reasons.items()]
        return "\n".join(lines)


def summarise(graft: Graft) -> Summary:
    """Count a graft's tensors."""
    kinds = {s.name: s.geo.kind if s.geo else "norm" for s, _ in graft.entry.sites}
    rows = []
    seen: set[int] = set()
    for site, state in graft.states():
        n = sum(p.numel() for p in state.parameters() if id(p) not in seen)  # shared ones once
        seen |= {id(p) for p in state.parameters()}
        rows.append((site, kinds.get(site, state.kind), n))
    own = {id(p) for g in _every_graft(graft) for p in g.parameters()}
    base = sum(p.numel() for p in graft.model.parameters() if id(p) not in own)
    base += sum(quantised.hidden_count(m) for m in graft.model.modules())
    return Summary(
        name=graft.name,
        method=repr(graft.method),
        rows=tuple(rows),
        trainable=sum(r[2] for r in rows),
        base=base,
        left_out=tuple(graft.entry.left_out.items()),
    )


def _every_graft(graft: Graft) -> list[Graft]:
    from graftwork.handle import grafts

    return list(grafts(graft.model).values())
