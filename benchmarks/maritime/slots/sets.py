"""The sets that are measured: composed dialogues that were held out, and hand-written ones with labels beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.maritime.slots.spans import Labelled, Span, placed, read
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, from_json

CASES = Path(__file__).parents[3] / "tests" / "maritime" / "cases"
COMPOSED, FIRST = "composed, held out", "first blind set"
SECOND, THIRD = "second blind set", "third blind set"
# Dialogues and their labels: {"id", "labels": {slot: null or {"turn", "start", "text", "others": [the same]}}}.
FILES = {
    FIRST: (CASES / "clean.jsonl", CASES / "clean-slots.jsonl"),
    SECOND: (CASES / "second" / "clean.jsonl", CASES / "second" / "clean.jsonl"),
    THIRD: (CASES / "third" / "clean.jsonl", CASES / "third" / "clean.jsonl"),
}


def sets(data: Path) -> dict[str, list[Dialogue]]:
    """The dialogues of each set that is there, without labels."""
    found = {COMPOSED: [one.dialogue for one in read(data / "test.jsonl")]}
    for name, (file, _) in FILES.items():
        if file.is_file():
            found[name] = [from_json(raw) for raw in _lines(file)]
    return found


def labelled(data: Path) -> dict[str, list[Labelled]]:
    """The dialogues of each set whose labels are there."""
    found = {COMPOSED: read(data / "test.jsonl")}
    for name, (file, labels) in FILES.items():
        if file.is_file() and labels.is_file():
            found[name] = by_hand(file, labels)
    return found


def by_hand(file: Path, labels: Path) -> list[Labelled]:
    """Dialogues with the spans that somebody wrote down as words of a turn.

    Raises:
        GraftError: words that are not said there, or a dialogue without labels.
    """
    known = {raw["id"]: raw["labels"] for raw in _lines(labels)}
    found = []
    for raw in _lines(file):
        dialogue = from_json(raw)
        if dialogue.id not in known:
            raise GraftError(f"{labels}: {dialogue.id} has no labels")
        spans = [
            placed(dialogue, slot, said["turn"], said["start"], said["text"])
            for slot, first in known[dialogue.id].items()
            for said in ([first, *first["others"]] if first else [])
        ]
        found.append(Labelled(dialogue, tuple(sorted(spans, key=_order))))
    return found


def _order(span: Span) -> tuple[int, int]:
    return span.turn, span.start


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines() if line]
