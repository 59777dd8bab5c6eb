"""The speed records at a glance: each row's step over its floor, a panel for each case, with the limits.

python -m benchmarks.speed.figure
"""

from __future__ import annotations

import io
from pathlib import Path

from benchmarks.speed.limits import LIMITS, RATIO
from graftwork_runs import Record, Row, validate_record
from graftwork_runs.files import write_atomic

RECORDS = Path(__file__).resolve().parents[1] / "records" / "speed"
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "performance.png"
#: colour-blind safe (Okabe and Ito, 2008)
COLOURS = {"graftwork": "#0072B2", "peft": "#E69F00", "full fine-tuning": "#999999"}
#: times the floor where the axis ends; a longer bar is cut, and its number told
WIDEST = 3.6


def panels(table: str, record: Record) -> dict[str, list[tuple[Row, float | None]]]:
    """Case -> its ratios to the floor with their limits, the smallest first."""
    found: dict[str, list[tuple[Row, float | None]]] = {}
    for row in record.rows:
        if row.metric == RATIO and row.value is not None:
            short = row.case.partition(":")[0]
            found.setdefault(row.case, []).append((row, LIMITS[table].get((short, row.variant))))
    return {case: sorted(rows, key=lambda r: r[0].value or 0.0) for case, rows in found.items()}


def colour(variant: str) -> str:
    """By whose row it is."""
    return next((c for start, c in COLOURS.items() if variant.startswith(start)), "black")


def draw(found: dict[str, list[tuple[Row, float | None]]], target: Path = PICTURE) -> Path:
    """Draw bars with quartiles over the rounds; the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    heights = [len(rows) + 1.5 for rows in found.values()]
    figure = Figure(figsize=(9, 0.21 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for axis, (case, rows) in zip(axes, found.items(), strict=True):
        for y, (row, limit) in enumerate(reversed(rows)):
            value = float(row.value or 0.0)
            axis.barh(y, value - 1, left=1, height=0.72, color=colour(row.variant))
            if row.lo is not None and row.hi is not None:
                axis.plot([row.lo, row.hi], [y, y], color="black", lw=1)
            if limit is not None:
                axis.plot([limit, limit], [y - 0.48, y + 0.48], color="#D55E00", lw=2.5)
            end = min(max(value, row.hi or value), WIDEST - 0.25)
            axis.text(end + 0.02, y, f"{value:.2f}", va="center", fontsize=7)
        axis.set_yticks(range(len(rows)), [r.variant for r, _ in reversed(rows)], fontsize=7)
        axis.set_title(case, fontsize=8, loc="left")
        axis.set_ylim(-0.7, len(rows) - 0.3)
        axis.grid(axis="x", lw=0.4, alpha=0.6)
        axis.set_axisbelow(True)
    axes[-1].set_xlim(1, WIDEST)
    axes[-1].set_xlabel("time of a step, in times the frozen floor (1: nothing trains)", fontsize=8)
    axes[-1].tick_params(axis="x", labelsize=8)
    marks = [Patch(color=c, label=name) for name, c in COLOURS.items()]
    marks.append(Line2D([], [], color="#D55E00", lw=2.5, label="limit"))
    figure.legend(handles=marks, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    return write_atomic(target, picture.getvalue())


def main() -> int:
    """Draw both tables' records into the page's picture."""
    found: dict[str, list[tuple[Row, float | None]]] = {}
    for table in LIMITS:
        found |= panels(table, validate_record(RECORDS / f"{table}.json"))
    print(draw(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
