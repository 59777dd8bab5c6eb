"""Reads the hand-written protocol cases of `tests/maritime/cases` as dialogues of the app's format.

There are four sets: the folder's own, and `second`, `third` and `fourth`, whose dialogues have slot labels besides.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
SECOND, THIRD, FOURTH = "second", "third", "fourth"
Dialogue = dict[str, Any]


@cache
def _lines(part: str, name: str) -> tuple[dict[str, Any], ...]:
    text = (CASES / part / name).read_text(encoding="utf8")
    return tuple(json.loads(line) for line in text.splitlines())


def clean(part: str = "") -> tuple[Dialogue, ...]:
    """Dialogues without a fault, each with its scenario; those of `SECOND`, `THIRD` and `FOURTH` with `labels`."""
    return _lines(part, "clean.jsonl")


def faults(part: str = "") -> tuple[dict[str, Any], ...]:
    """The edits: `parent`, the 1-based `line`, its faulty `text`, `kind`, `why`, `uncovered_expected`."""
    return _lines(part, "violations.jsonl")


def violations(part: str = "") -> list[Dialogue]:
    """One dialogue a fault: its clean parent with that one turn's text changed, and the edit as `fault`."""
    parents = {dialogue["id"]: dialogue for dialogue in clean(part)}
    found = []
    for fault in faults(part):
        dialogue = copy.deepcopy(parents[fault["parent"]])
        dialogue["id"] = fault["id"]
        dialogue["turns"][fault["line"] - 1]["text"] = fault["text"]
        found.append({**dialogue, "fault": fault})
    return found


def table(part: str = "") -> str:
    """The README's table of kinds."""
    counts = Counter(fault["kind"] for fault in faults(part))
    first = {fault["kind"]: fault for fault in reversed(faults(part))}
    rows = ["| kind | cases | filter likely | rule |", "| --- | ---: | --- | --- |"]
    for kind, number in counts.items():
        rule = first[kind]["why"].split(" Here: ")[0]
        likely = "no" if first[kind]["uncovered_expected"] else "yes"
        rows.append(f"| `{kind}` | {number} | {likely} | {rule} |")
    uncovered = sum(fault["uncovered_expected"] for fault in faults(part))
    rows.append(
        f"\n{len(clean(part))} clean dialogues; {len(faults(part))} violations of {len(counts)} kinds, "
        f"{uncovered} of them of kinds that a rule-based filter hardly reaches."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(*sys.argv[1:2]))
