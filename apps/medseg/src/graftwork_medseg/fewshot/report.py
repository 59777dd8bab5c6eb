"""What a search chose and when, for the report: a picture of units over time, and the sets that competed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from graftwork_runs import Report, Row

ROWS = 40  # units that the picture shows; the others are counted
_WIDTH, _LEFT, _TOP, _LINE = 840, 390, 26, 17  # the longest name, of a Swin block, fits


@dataclass(frozen=True)
class Timeline:
    """Units as rows, allocations as columns: a bar where a unit was on, a dot at the end where it was chosen.

    Args:
        units: names with their cost, one a row.
        steps: of the allocations.
        sets: names that were on at each of them.
        chosen: names of the final set.
    """

    units: Sequence[tuple[str, int]]
    steps: Sequence[int]
    sets: Sequence[frozenset[str]]
    chosen: frozenset[str]

    def html(self) -> str:
        """An SVG in the report's own colours."""
        height = _TOP + _LINE * len(self.units) + 8
        marks = []
        width = (_WIDTH - _LEFT - 60) / max(1, len(self.steps))
        for i, step in enumerate(self.steps):
            x = _LEFT + (i + 0.5) * width
            marks.append(f'<text x="{x:.0f}" y="14" text-anchor="middle">{step}</text>')
        end = _WIDTH - 30
        marks.append(f'<text x="{end}" y="14" text-anchor="middle">chosen</text>')
        for row, (name, cost) in enumerate(self.units):
            y = _TOP + row * _LINE
            strong = ' class="strong"' if name in self.chosen else ""
            marks.append(
                f'<text{strong} x="{_LEFT - 10}" y="{y + 12}" text-anchor="end">{escape(name)} '
                f"({cost:,d})</text>"
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y + 16}" y2="{y + 16}"/>'
            )
            marks += [
                f'<rect class="mark s0" x="{_LEFT + i * width:.1f}" y="{y + 3}" width="{width:.1f}" '
                'height="10"/>'
                for i, on in enumerate(self.sets)
                if name in on
            ]
            if name in self.chosen:
                marks.append(f'<circle class="mark s1" cx="{end}" cy="{y + 8}" r="4.5"/>')
        return (
            f'<figure><div class="wide"><svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-label="Units that were on at each allocation">{"".join(marks)}</svg></div></figure>'
        )


@dataclass(frozen=True)
class Words:
    """One paragraph."""

    text: str

    def html(self) -> str:
        """Escaped."""
        return f"<p>{escape(self.text)}</p>"


def timeline(record: Mapping[str, Any]) -> tuple[Timeline, int]:
    """The picture of a search's record, and how many units it leaves out.

    Chosen units stand first, then those that were on longest; units that were never on have no row.
    """
    allocations = record["allocations"]
    sets = [frozenset(a["set"]) for a in allocations]
    chosen = {u["name"]: u["cost"] for u in record["chosen"]}
    costs = {**record["costs"], **chosen}
    times = {name: sum(name in s for s in sets) for name in frozenset().union(*sets, chosen)}
    order = sorted(times, key=lambda n: (n not in chosen, -times[n], n))
    rows = [(name, costs[name]) for name in order]
    steps = [a["step"] for a in allocations]
    return Timeline(rows[:ROWS], steps, sets, frozenset(chosen)), max(0, len(rows) - ROWS)


def show(report: Report, record: Mapping[str, Any]) -> None:
    """Add what the search did to a report."""
    picture, left = timeline(record)
    foreseen = record["foreseen"]["all"]
    binds = record["budget"] < record["largest"]
    spent = f"{record['cost']:,d} of {record['budget']:,d} parameters that the budget allows"
    more = f" {left} more units were on for a while." if left else ""
    rho = "not measured" if foreseen is None else f"{foreseen:.2f} (1 is perfect, 0 is chance)"
    share = f"{100 * record['share_in_audits']:.0f} %"
    words = [
        (
            f"{len(record['chosen'])} of {record['units']} units were chosen: {spent} (the head does not "
            "count). A unit is a small graft at one place: its name says where, of which family and size; its "
            "parameters stand in brackets."
        ),
        f"Columns are the search's allocations, by step; a bar says that the unit was on.{more}",
        (
            f"Audits took {share} of the search's time. How well they were foreseen, as a rank correlation of "
            f"expected and measured gain per parameter: {rho}."
        ),
        (
            "The audit score was used to choose, so it is too good: the left-out cases say what to expect, and "
            "even they were in view when the places were chosen."
        ),
    ]
    if not binds:
        words.insert(
            1, f"The budget does not bind: all units together have {record['largest']:,d}."
        )
    report.block("Where to adapt", *map(Words, words), *([picture] if picture.units else []))
    report.table(
        "Sets that competed at the end",
        ["from", "units", "parameters", "audit score"],
        [[c["from"], len(c["set"]), c["cost"], round(c["score"], 4)] for c in record["candidates"]],
        strong=[0],
        caption="Audit score: mean soft Dice of the asked organs on crops of the case that is held out.",
    )


def rows(record: Mapping[str, Any], verb: str) -> list[Row]:
    """What the search cost and found, for the run's record."""
    values = {
        "units": len(record["chosen"]),
        "parameters of the units": record["cost"],
        "budget": record["budget"],
        "audit score": record["score"],
        "share of the search in audits": round(record["share_in_audits"], 4),
        "audits foreseen (Spearman)": record["foreseen"]["all"],
    }
    return [
        Row(case="search", variant=verb, metric=metric, value=value)
        for metric, value in values.items()
        if value is not None
    ]
