"""Numbers as a reader wants them: aligned, rounded, with their interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

UNDEFINED = '<span title="not defined">–</span>'


class Markup(str):
    """A cell that is HTML already, such as a link. Whoever makes one has escaped what is in it."""

    __slots__ = ()


@dataclass(frozen=True)
class Measure:
    """A figure with its bounds `lo` and `hi` (both or neither) in the same unit.

    `value` None or NaN shows as undefined. `digits` are decimals.
    """

    value: float | None
    lo: float | None = None
    hi: float | None = None
    digits: int = 3
    unit: str = ""

    @property
    def defined(self) -> bool:
        return self.value is not None and math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        return self.lo is not None and self.hi is not None

    def number(self) -> str:
        """The value as plain text, without its bounds."""
        if self.value is None or not self.defined:
            return "–"
        text = f"{self.value:,.{self.digits}f}".replace("-", "−")
        return f"{text} {self.unit}" if self.unit else text

    def within(self) -> str:
        """The bounds as plain text; empty without any."""
        if not self.bounded or not self.defined:
            return ""
        return f"{self.lo:,.{self.digits}f} to {self.hi:,.{self.digits}f}".replace("-", "−")


@dataclass(frozen=True)
class Figure:
    """A key figure, and a line below it; `good` colours it (None: no judgement)."""

    label: str
    value: str | float | int | Measure
    note: str = ""
    good: bool | None = None


def cell(value: Any) -> str:
    """One value as HTML text, escaped."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, Measure):
        if not value.defined:
            return UNDEFINED
        within = value.within()
        extra = f' <span class="within">{escape(within)}</span>' if within else ""
        return escape(value.number()) + extra
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return _plain_number(value)
    return escape(str(value))


def is_number(value: Any) -> bool:
    """Whether a cell holds a figure; numpy's scalars count, booleans do not."""
    if isinstance(value, bool | str | bytes):
        return False
    return isinstance(value, Measure) or hasattr(value, "__float__")


def figures_html(figures: Sequence[Figure]) -> str:
    items = []
    for figure in figures:
        tone = {True: " good", False: " bad", None: ""}[figure.good]
        note = figure.note
        shown = cell(figure.value)
        if isinstance(figure.value, Measure) and figure.value.defined:
            shown = escape(figure.value.number())
            note = "; ".join(text for text in (figure.value.within(), note) if text)
        below = f'<dd class="note">{escape(note)}</dd>' if note else ""
        items.append(
            f'<div><dt>{escape(figure.label)}</dt><dd class="big{tone}">{shown}</dd>{below}</div>'
        )
    return f'<dl class="figures">{"".join(items)}</dl>'


def table_html(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str = "",
    strong: Sequence[int] = (),
) -> str:
    """A table; the first cell of a row names it. Columns of numbers are right-aligned.

    Raises ValueError when a row has not as many cells as there are columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells for {len(columns)} columns: {row!r}")
    numeric = [_numeric([row[i] for row in rows]) for i in range(len(columns))]
    kind = [' class="num"' if flag else "" for flag in numeric]
    head = "".join(
        f'<th scope="col"{k}>{escape(c)}</th>' for k, c in zip(kind, columns, strict=True)
    )
    lines = []
    for index, row in enumerate(rows):
        cells = "".join(
            f'<th scope="row"{k}>{cell(v)}</th>' if i == 0 else f"<td{k}>{cell(v)}</td>"
            for i, (k, v) in enumerate(zip(kind, row, strict=True))
        )
        mark = ' class="strong"' if index in strong else ""
        lines.append(f"<tr{mark}>{cells}</tr>")
    below = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{below}"
    )


def facts_html(facts: Mapping[str, Any]) -> str:
    """Pairs of a name and a value, as a definition list."""
    pairs = "".join(f"<dt>{escape(str(k))}</dt><dd>{cell(v)}</dd>" for k, v in facts.items())
    return f'<dl class="facts">{pairs}</dl>'


def _numeric(values: Sequence[Any]) -> bool:
    given = [value for value in values if value is not None]
    return bool(given) and all(is_number(value) for value in given)


def _plain_number(value: Any) -> str:
    number = float(value)
    if not math.isfinite(number):
        return UNDEFINED
    text = f"{int(number):,}" if number == int(number) and abs(number) < 1e15 else f"{number:.4g}"
    return text.replace("-", "−")
