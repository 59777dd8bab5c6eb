"""The case list: worst case first and open, the others one click away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol

from graftwork_runs.report.cells import Measure, cell


class Block(Protocol):
    """Anything that can show itself: Volume, Picture, Text, Tree, or an app's own."""

    def html(self) -> str: ...


@dataclass(frozen=True)
class Case:
    """One case of a test set: its score, further metrics, and what there is to see of it."""

    name: str
    score: float | None
    blocks: Sequence[Block]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def defined(self) -> bool:
        return self.score is not None and math.isfinite(self.score)


def worst_first(cases: Sequence[Case], *, higher_is_better: bool = True) -> list[Case]:
    """Cases from worst to best score; those without a defined score come last, by name."""
    sign = 1.0 if higher_is_better else -1.0
    scored = [case for case in cases if case.defined]
    rest = [case for case in cases if not case.defined]
    return sorted(scored, key=lambda c: (sign * float(c.score or 0.0), c.name)) + sorted(
        rest, key=lambda c: c.name
    )


def cases_html(
    cases: Sequence[Case], *, score: str, higher_is_better: bool = True, digits: int = 3
) -> str:
    ordered = worst_first(cases, higher_is_better=higher_is_better)
    buttons, sections = [], []
    for index, case in enumerate(ordered):
        first = index == 0
        shown = cell(Measure(case.score, digits=digits))
        buttons.append(
            f'<button type="button" aria-pressed="{"true" if first else "false"}">'
            f'<span>{escape(case.name)}</span><span class="score">{shown}</span></button>'
        )
        facts = {score: Measure(case.score, digits=digits), **case.metrics}
        metrics = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{cell(value)}</dd></div>"
            for name, value in facts.items()
        )
        inner = "".join(block.html() for block in case.blocks)
        sections.append(
            f'<div class="case"{"" if first else " hidden"}><h3>{escape(case.name)}</h3>'
            f'<dl class="metrics">{metrics}</dl>{inner}</div>'
        )
    return (
        f'<p class="caption">{len(ordered)} cases by {escape(score)}, worst first.</p>'
        f'<div class="cases"><div class="caselist" role="group" aria-label="cases, worst first">'
        f"{''.join(buttons)}</div><div>{''.join(sections)}</div></div>"
    )
