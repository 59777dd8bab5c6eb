"""The report's builder: sections in the order in which they are added, provenance at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graftwork_runs.files import write_atomic
from graftwork_runs.report.cases import Block, Case, cases_html
from graftwork_runs.report.cells import Figure, Measure, facts_html, figures_html, table_html
from graftwork_runs.report.look import document, section
from graftwork_runs.report.plots import Curve, curves_html, dots_html

if TYPE_CHECKING:
    from graftwork_runs.record import Record


class Report:
    """Builds one self-contained HTML file. Every text given is escaped.

        Report("Adapting to site B", verdict="The graft wins back 84 % of the gap.")
            .figures([Figure("Dice, graft", Measure(0.83, 0.80, 0.86))])
            .cases([Case("subject 07", 0.71, [Volume(image, {"graft": mask})])], score="Dice")
            .table("Test set", ["variant", "Dice"], [["base", 0.31], ["graft", 0.83]])
            .curves("Training", {"loss": [(1, 0.9), (2, 0.5)]}, x="step", y="loss")
            .notes(["The subjects are simulated."])
            .record(record, config)
            .write("report.html")

    Each method returns the report. `notes` and `record` are shown last wherever they are called.
    """

    def __init__(self, title: str, *, verdict: str = "", kicker: str = "Graftwork report") -> None:
        self.title = title
        self.verdict = verdict
        self.kicker = kicker
        self._sections: list[str] = []
        self._notes: list[str] = []
        self._provenance = ""

    def figures(self, figures: Sequence[Figure]) -> Report:
        """A row of key figures."""
        return self._add(figures_html(figures))

    def cases(
        self,
        cases: Sequence[Case],
        *,
        score: str,
        title: str = "Cases",
        higher_is_better: bool = True,
        digits: int = 3,
    ) -> Report:
        """Cases from worst to best by their score; the worst one is open."""
        inner = (
            cases_html(cases, score=score, higher_is_better=higher_is_better, digits=digits)
            if cases
            else '<p class="soft">No cases.</p>'
        )
        return self._add(section(title, inner))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        caption: str = "",
        strong: Sequence[int] = (),
    ) -> Report:
        """A table; cells are texts, numbers, Measures or None. Rows in `strong` stand out."""
        return self._add(section(title, table_html(columns, rows, caption=caption, strong=strong)))

    def curves(
        self,
        title: str,
        curves: Mapping[str, Curve],
        *,
        x: str,
        y: str,
        log: bool = False,
        caption: str = "",
    ) -> Report:
        """Lines through (x, y) points, one per name."""
        return self._add(section(title, curves_html(curves, x=x, y=y, log=log, caption=caption)))

    def dots(
        self,
        title: str,
        rows: Mapping[str, Mapping[str, Measure]],
        *,
        x: str,
        caption: str = "",
        zero: bool = False,
    ) -> Report:
        """Dots with interval bars: {category: {variant: Measure}}."""
        return self._add(section(title, dots_html(rows, x=x, caption=caption, zero=zero)))

    def block(self, title: str, *blocks: Block) -> Report:
        """A sheet with any blocks: Volume, Picture, Text, Tree, or an app's own."""
        return self._add(section(title, "".join(block.html() for block in blocks)))

    def text(self, title: str, *paragraphs: str) -> Report:
        return self._add(section(title, "".join(f"<p>{escape(p)}</p>" for p in paragraphs)))

    def notes(self, notes: Sequence[str]) -> Report:
        """What a reader must know before trusting the figures."""
        self._notes += notes
        return self

    def record(self, record: Record, config: Mapping[str, Any] | str | None = None) -> Report:
        """Where the figures come from: the record and the resolved configuration."""
        self._provenance = section("How this was made", _provenance_html(record, config))
        return self

    def html(self) -> str:
        """The whole document."""
        return document(self.title, self.body())

    def body(self) -> str:
        """What stands between <main> and </main>."""
        verdict = f'<p class="verdict">{escape(self.verdict)}</p>' if self.verdict else ""
        head = (
            f'<header class="top"><p class="kicker">{escape(self.kicker)}</p>'
            f"<h1>{escape(self.title)}</h1>{verdict}</header>"
        )
        parts = [head, *self._sections]
        if self._notes:
            items = "".join(f"<li>{escape(note)}</li>" for note in self._notes)
            parts.append(section("Read this before using it", f'<ul class="notes">{items}</ul>'))
        parts.append(self._provenance)
        return "\n".join(part for part in parts if part)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file atomically. Raises GraftError when the place cannot be written."""
        return write_atomic(path, self.html())

    def _add(self, html: str) -> Report:
        self._sections.append(html)
        return self


def _provenance_html(record: Record, config: Mapping[str, Any] | str | None) -> str:
    facts: dict[str, Any] = {
        "Record": record.record,
        "Claim": record.claim,
        "Verdict": record.verdict,
        "Command": record.command,
        "Commit": record.commit or "not run from a git tree",
        "Date": record.date,
        "Device": record.device,
        "Cores": record.cores,
        "Memory": _gibibytes(record.memory_bytes),
        "Seeds": ", ".join(map(str, record.seeds)) or None,
        "Time": None if record.seconds is None else f"{record.seconds:,.1f} s",
        "Peak memory": _gibibytes(record.peak_memory_bytes),
        "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    html = facts_html({name: value for name, value in facts.items() if value is not None})
    if record.data:
        rows = [[name, digest] for name, digest in record.data.items()]
        html += _more("Data and their hashes", table_html(["file", "sha256"], rows))
    if config:
        text = (
            config
            if isinstance(config, str)
            else yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        )
        html += _more("Configuration", f"<pre>{escape(text)}</pre>")
    full = json.dumps(record.model_dump(exclude_defaults=True), indent=1, ensure_ascii=False)
    return html + _more("The record, in full", f"<pre>{escape(full)}</pre>")


def _more(summary: str, inner: str) -> str:
    return f'<details class="more"><summary>{escape(summary)}</summary>{inner}</details>'


def _gibibytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**30:,.1f} GiB"
