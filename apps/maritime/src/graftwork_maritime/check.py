"""`maritime check`: what the filters find in anybody's dialogues, and how often each refuses one."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftError

from . import NOTICE
from .arguments import Parser, names
from .dialogues import MAX_TURN, read

if TYPE_CHECKING:
    from graftwork.lightning.app import App

    from .filters.case import Case, Filter, Finding

#: between two lines of progress
SECONDS = 5.0
SUMMARY = "Judge dialogues, JSONL or text, turn by turn; which filters refuse how many."


def main(app: App, args: Sequence[str]) -> int:
    """Run the verb; 0, or with `--strict` 1 when a dialogue is refused. Raises GraftError for bad input."""
    parser = Parser("check", SUMMARY)
    parser.add_argument("file", nargs="?", help="JSONL, or plain text with a turn a line")
    parser.add_argument("--filters", type=names, default=["house", "grammar"],
                        help="sets (paper, house, grammar, phrases) and filters [house,grammar]")  # fmt: skip
    parser.add_argument("--without", type=names, default=[], help="sets and filters to leave out")
    parser.add_argument("--category", help="of dialogues that name none, such as fire")
    parser.add_argument("--against", help="dialogues that each must differ from (not_unique)")
    parser.add_argument("--encoding", help="of the files, where it is not UTF-8 or marked UTF-16")
    parser.add_argument("--json", action="store_true", help="JSONL to standard output")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when one is refused")
    parser.add_argument("--list", action="store_true", help="say which filters there are, and end")
    given = parser.parse_args(list(args))
    if given.list:
        print(_listed())
        return 0
    if given.file is None:
        parser.error("name a file")

    from .filters.sets import Rejections, choose

    filters = choose(given.filters, given.without)
    table = Rejections(filters)
    said = time.monotonic()
    with _long_numbers():
        for case in cases(given.file, given.against, given.encoding, given.category):
            findings = table.add(case)
            if given.json:
                print(json.dumps(as_json(case, findings, filters), ensure_ascii=False))
            else:
                for line in lines(case, findings):
                    print(line)
            if time.monotonic() - said >= SECONDS:
                print(f"{table.seen} dialogues, {table.refused} refused so far", file=sys.stderr)
                said = time.monotonic()
    rows = {"seen": table.seen, "refused": table.refused, "rows": table.rows(), "notice": NOTICE}
    print(json.dumps({"summary": rows}) if given.json else shown(rows))
    return int(given.strict and table.refused > 0)


@contextlib.contextmanager
def _long_numbers() -> Iterator[None]:
    """Inside the block a turn of figures alone is a number, too."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(MAX_TURN)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def cases(
    file: str, against: str | None = None, encoding: str | None = None, category: str | None = None
) -> Iterator[Case]:
    """The cases of a file, each compared with the dialogues of `against`."""
    from .filters.reading import case_of
    from .filters.unique import Texts

    pool = Texts(d.text for d in read(against, encoding)) if against else None
    for dialogue in read(file, encoding):
        try:
            yield case_of(dialogue, pool, category)
        except GraftError as error:
            raise GraftError(f"{file}: {error}") from None


def as_json(case: Case, findings: Sequence[Finding], filters: Sequence[Filter]) -> dict[str, Any]:
    """One dialogue's line for programs; `not_judged`: the filters that lacked something."""
    return {
        "id": case.dialogue.id,
        "line": case.dialogue.line,
        "findings": [f.to_json() for f in findings],
        "not_judged": [f.name for f in filters if not f.judges(case)],
    }


def lines(case: Case, findings: Sequence[Finding]) -> Iterator[str]:
    """One dialogue's findings for a reader."""
    name = case.dialogue.id or f"line {case.dialogue.line}"
    for found in findings:
        turn = f" turn {found.line}" if found.line else ""
        yield f"{name}{turn}: {found.filter}: {found.reason}"


def shown(summary: dict[str, Any]) -> str:
    """The rejection table for a reader: filters that refused something, and those that could not judge."""
    rows = summary["rows"]
    width = max((len(r["filter"]) for r in rows), default=6) + 2
    failed = [r for r in rows if r["failed"]]
    out = [f"{summary['seen']} dialogues, {summary['refused']} refused"]
    if failed:
        out.append(f"{'filter':<{width}}{'refused':>8}{'judged':>8}{'first':>8}")
        out += [
            f"{r['filter']:<{width}}{r['failed']:>8}{r['judged']:>8}{r['first']:>8}" for r in failed
        ]
    idle = [r["filter"] for r in rows if not r["judged"]]
    if idle:
        out.append(f"not judged, for want of a scenario, a category or a part: {', '.join(idle)}")
    return "\n".join([*out, summary["notice"]])


def _listed() -> str:
    from .filters.sets import SETS

    out = []
    for name, filters in SETS.items():
        out.append(f"{name}:")
        for f in filters:
            needs = f" (needs {' and '.join(f.needs)})" if f.needs else ""
            out.append(f"  {f.name:<24}{f.summary}{needs}")
    return "\n".join(out)
