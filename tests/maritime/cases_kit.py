"""Reads the hand-written protocol cases of `tests/maritime/cases` as dialogues of the app's format."""

from __future__ import annotations

import copy
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
Dialogue = dict[str, Any]


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf8").splitlines()]


@cache
def clean() -> tuple[Dialogue, ...]:
    """Dialogues without a fault, each with its scenario."""
    return tuple(_lines("clean.jsonl"))


@cache
def faults() -> tuple[dict[str, Any], ...]:
    """The edits: `parent`, the 1-based `line`, its faulty `text`, `kind`, `why`, `uncovered_expected`."""
    return tuple(_lines("violations.jsonl"))


def violations() -> list[Dialogue]:
    """One dialogue a fault: its clean parent with that one turn's text changed, and the edit as `fault`."""
    parents = {dialogue["id"]: dialogue for dialogue in clean()}
    found = []
    for fault in faults():
        dialogue = copy.deepcopy(parents[fault["parent"]])
        dialogue["id"] = fault["id"]
        dialogue["turns"][fault["line"] - 1]["text"] = fault["text"]
        found.append({**dialogue, "fault": fault})
    return found


def table() -> str:
    """The README's table of kinds."""
    counts = Counter(fault["kind"] for fault in faults())
    first = {fault["kind"]: fault for fault in reversed(faults())}
    rows = ["| kind | cases | filter likely | rule |", "| --- | ---: | --- | --- |"]
    for kind, number in counts.items():
        rule = first[kind]["why"].split(" Here: ")[0]
        likely = "no" if first[kind]["uncovered_expected"] else "yes"
        rows.append(f"| `{kind}` | {number} | {likely} | {rule} |")
    uncovered = sum(fault["uncovered_expected"] for fault in faults())
    rows.append(
        f"\n{len(clean())} clean dialogues; {len(faults())} violations of {len(counts)} kinds, "
        f"{uncovered} of them of kinds that a rule-based filter hardly reaches."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
