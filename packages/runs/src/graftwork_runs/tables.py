"""Tables in Markdown files, generated from records so that no figure is typed by hand.

A page holds a pair of marks, and what stands between them is replaced:

    <!-- table: speed/cpu-step -->
    <!-- /table -->

The name is a generator's, or a record's under the folder of records.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic
from graftwork_runs.record import Record, Row, validate_record

Generator = Callable[[], str]

_MARK = re.compile(r"^<!-- (?P<kind>/?)table(?:: *(?P<name>\S+))? -->[ \t]*$", re.MULTILINE)


def render(page: Path, text: str, table: Callable[[str], str]) -> str:
    """`text` with each marked place filled by `table(name)`.

    Raises GraftError naming the page and the line of a mark without its partner.
    """
    pieces: list[str] = []
    at, opened = 0, None
    for mark in _MARK.finditer(text):
        line = text.count("\n", 0, mark.start()) + 1
        closing = bool(mark["kind"])
        if closing == (opened is None) or closing == bool(mark["name"]):
            raise GraftError(f"{page}:{line}: {mark[0]!r} has no partner, or no name.")
        if closing:
            assert opened is not None
            pieces += [table(opened).rstrip("\n"), "\n", mark[0]]
            opened = None
        else:
            pieces += [text[at : mark.end()], "\n"]
            opened = mark["name"]
        at = mark.end()
    if opened is not None:
        raise GraftError(f"{page}: the table {opened!r} is not closed with <!-- /table -->.")
    return "".join([*pieces, text[at:]])


class Tables:
    """The tables of a tree: `root` of the pages, folder of `records`, and named `generators`."""

    def __init__(
        self, root: Path, records: Path, generators: Mapping[str, Generator], pages: Iterable[Path]
    ) -> None:
        self.root, self.records = root, records
        self.generators = dict(generators)
        self.pages = sorted(pages)

    def table(self, name: str) -> str:
        """The Markdown of one table. Raises GraftError for a name nobody knows."""
        if name in self.generators:
            return self.generators[name]()
        path = self.records / f"{name}.json"
        if re.fullmatch(r"[\w-]+(/[\w.-]+)+", name) and path.is_file():
            return record_table(validate_record(path))
        known = ", ".join(sorted(self.generators))
        raise GraftError(f"table {name!r}: no generator ({known}) and no record {path}.")

    def update(self, *, check: bool = False) -> list[str]:
        """Rewrite the pages; with `check` write nothing. Returns what differs, page by page."""
        differences = []
        for page in self.pages:
            text = page.read_text(encoding="utf-8")
            fresh = render(page, text, self.table)
            if fresh == text:
                continue
            name = str(page.relative_to(self.root))
            lines = difflib.unified_diff(
                text.splitlines(), fresh.splitlines(), name, f"{name} (generated)", "", "", 1, ""
            )
            differences.append("\n".join(lines))
            if not check:
                write_atomic(page, fresh)
        return differences


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns whose cells begin with a digit are right-aligned."""
    numeric = [
        bool(rows) and all(re.match(r"[\d−–]", row[i] or "–") for row in rows)
        for i in range(len(columns))
    ]
    lines = [columns, ["---:" if flag else "---" for flag in numeric], *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def record_table(record: Record, *, metrics: Sequence[str] | None = None) -> str:
    """A record as a table and a line that says where it was measured.

    With several variants to a case, the variants are the columns when there is one metric, else the
    metrics are. `metrics` picks and orders them.
    """
    rows = [row for row in record.rows if metrics is None or row.metric in metrics]
    names = list(metrics or dict.fromkeys(row.metric for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    if len(names) == 1 and len(variants) > 1:
        body = _pivot(rows, ["case"], "variant", variants)
    else:
        body = _pivot(rows, ["case", "variant"], "metric", names)
    return f"{body}\n\n{source(record)}"


def source(record: Record) -> str:
    """One line: device, date, seeds and command of a record."""
    parts = [record.device]
    if record.cores:
        parts.append(f"{record.cores} cores")
    parts.append(record.date[:10])
    if record.seeds:
        parts.append(f"{'seed' if len(record.seeds) == 1 else 'seeds'} {_listed(record.seeds)}")
    parts.append(f"`{record.command}`")
    text = ", ".join(parts) + "."
    return f"<sub>{text} Record: `{record.record}`. {record.verdict or ''}".rstrip() + "</sub>"


def figure(row: Row | None) -> str:
    """A row's value with its unit and bounds, as a cell."""
    if row is None:
        return "–"
    if row.value is None:
        return row.note or "–"
    text = number(row.value) + (f" {row.unit}" if row.unit else "")
    if row.lo is not None and row.hi is not None and (row.lo, row.hi) != (row.value, row.value):
        text += f" ({number(row.lo)} to {number(row.hi)})"
    return text


def number(value: float) -> str:
    """A figure as people write it: whole, or three significant digits."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    # Trailing zeros are kept: they say how precise a figure is.
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def _pivot(rows: Sequence[Row], keys: Sequence[str], spread: str, across: Sequence[str]) -> str:
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in keys)
        place = lines.setdefault(key, {})
        if getattr(row, spread) in place:
            raise GraftError(f"record rows repeat: {', '.join(key)}, {getattr(row, spread)}.")
        place[getattr(row, spread)] = row
    # A key that never changes is left out, unless it is the last one.
    kept = [i for i in range(len(keys)) if len({key[i] for key in lines}) > 1] or [len(keys) - 1]
    body = [
        [*(key[i] for i in kept), *(figure(place.get(name)) for name in across)]
        for key, place in lines.items()
    ]
    return markdown([*(keys[i] for i in kept), *(name.replace("_", " ") for name in across)], body)


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
