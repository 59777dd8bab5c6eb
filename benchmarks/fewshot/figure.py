"""The few-shot benchmark at a glance: Dice of every arm, a panel for each site and number of shots."""

from __future__ import annotations

import re
from pathlib import Path

from graftwork_medseg.files import publish
from graftwork_runs import Record, Row

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "medseg-few-shot.png"
ABOVE = "no cap"
#: colour-blind safe, from light to dark with the cap (Okabe and Ito, 2008; the last one is black)
COLOURS = {"0.1 %": "#56B4E9", "0.3 %": "#E69F00", "1 %": "#D55E00", ABOVE: "black"}


def points(record: Record) -> dict[str, dict[str, list[tuple[str, Row]]]]:
    """Case -> arm -> (cap or `ABOVE`, the row of its Dice); arms in the table's order, refused ones left out."""
    out: dict[str, dict[str, list[tuple[str, Row]]]] = {}
    for row in record.rows:
        if row.metric == "dice" and row.value is not None:
            arm, _, cap = row.variant.partition(", ")
            out.setdefault(row.case, {}).setdefault(arm, []).append((cap or ABOVE, row))
    return out


def draw(record: Record, target: Path = PICTURE) -> Path:
    """Draw the record's Dice with its intervals.

    Returns:
        The picture's file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = points(record)
    arms = list(dict.fromkeys(arm for case in found.values() for arm in case))
    caps = [c for c in COLOURS if any(c == p for a in found.values() for ps in a.values() for p, _ in ps)]  # fmt: skip
    place = {arm: len(arms) - i for i, arm in enumerate(arms)}
    figure = Figure(figsize=(2.6 * len(found) + 1.6, 0.3 * len(arms) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, (case, rows) in zip(panels, found.items(), strict=True):
        for arm, values in rows.items():
            for cap, row in values:
                shift = 0.0 if cap == ABOVE else 0.22 * (1 - [*COLOURS].index(cap))
                y, x = place[arm] + shift, float(row.value or 0.0)
                if row.lo is not None and row.hi is not None:
                    panel.plot([row.lo, row.hi], [y, y], color=COLOURS[cap], lw=1.2, alpha=0.6)
                panel.plot(x, y, "o", color=COLOURS[cap], ms=3.5)
        panel.set_title(re.sub(", ", "\n", case, count=1), fontsize=9)
        panel.set_xlabel("Dice, 95 %", fontsize=8)
        panel.set_ylim(0.4, len(arms) + 0.6)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", lw=0.4, alpha=0.6)
        for y in range(1, len(arms)):
            panel.axhline(y + 0.5, color="0.92", lw=0.6, zorder=0)
    panels[0].set_yticks([place[a] for a in arms], arms)
    marks = [Line2D([], [], marker="o", ls="", ms=4, color=COLOURS[c], label=c) for c in caps]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(caps), fontsize=8, frameon=False)  # fmt: skip
    with publish(target) as part:
        figure.savefig(part, dpi=110, format="png")
    return target
