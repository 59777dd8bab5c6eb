"""How well slots are filled: exact and overlapping words, with bounds over dialogues.

Who extracts says spans; each slot takes the first that it is sure of (`SURE`), else the surest one. A slot's truth is
one span or several that say the same. Words are compared as in SQuAD (Rajpurkar et al. 2016): without case, marks and
articles.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.maritime.slots.spans import SLOTS, Labelled, Span
from graftwork_maritime.dialogues import Dialogue

SURE = 0.5
RESAMPLES = 1000
ALL = "mean of slots"
EXACT, OVERLAP = "exact F1", "word F1"
Found = Mapping[str, Sequence[Span]]  # spans by the dialogue's id
Counts = NDArray[np.float64]  # (dialogues, 3): right, said, true


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval."""

    value: float
    lo: float
    hi: float


def filled(spans: Iterable[Span]) -> dict[str, Span]:
    """One span for each slot that is said."""
    chosen: dict[str, Span] = {}
    for slot in SLOTS:
        own = sorted((s for s in spans if s.slot == slot), key=lambda s: (s.turn, s.start))
        if own:
            sure = [s for s in own if s.score >= SURE]
            chosen[slot] = sure[0] if sure else max(own, key=lambda s: s.score)
    return chosen


def plain(text: str) -> tuple[str, ...]:
    """The words that are compared."""
    return tuple(w for w in re.findall(r"\w+", text.lower()) if w not in ("a", "an", "the"))


def exact(said: Span | None, truth: Sequence[Span], dialogue: Dialogue) -> bool:
    """Whether a slot has the words of one of its true spans, from that turn; a name may come from any turn."""
    return said is not None and any(
        (said.turn == t.turn or t.slot == "vessel")
        and plain(said.text(dialogue)) == plain(t.text(dialogue))
        for t in truth
    )


def overlap(said: Span | None, truth: Sequence[Span], dialogue: Dialogue) -> tuple[int, int, int]:
    """Words in common with the true span that has most, words said, words of that span."""
    words = plain(said.text(dialogue)) if said else ()
    best = (0, len(words), len(plain(truth[0].text(dialogue))) if truth else 0)
    for one in truth:
        true = plain(one.text(dialogue))
        common = sum((Counter(words) & Counter(true)).values())
        if common * (best[1] + best[2]) > best[0] * (len(words) + len(true)):
            best = (common, len(words), len(true))
    return best


def counts(labelled: Sequence[Labelled], found: Found) -> dict[tuple[str, str], Counts]:
    """For each metric and slot, what is right, said and true in each dialogue."""
    table: dict[tuple[str, str], list[tuple[int, int, int]]] = {
        (metric, slot): [] for metric in (EXACT, OVERLAP) for slot in SLOTS
    }
    for one in labelled:
        chosen = filled(found[one.dialogue.id])
        for slot in SLOTS:
            truth = [s for s in one.spans if s.slot == slot]
            said = chosen.get(slot)
            right = int(exact(said, truth, one.dialogue))
            table[EXACT, slot].append((right, int(said is not None), int(bool(truth))))
            table[OVERLAP, slot].append(overlap(said, truth, one.dialogue))
    return {key: np.array(rows, dtype=np.float64) for key, rows in table.items()}


def f1(rows: Counts) -> float:
    """2 right / (said + true) over all rows; nothing said where nothing is true is 1."""
    right, said, true = rows.sum(0)
    return float(2 * right / (said + true)) if said + true else 1.0


def figures(
    labelled: Sequence[Labelled], seeds: Sequence[Found], draws: int = RESAMPLES
) -> dict[tuple[str, str], Figure]:
    """By metric and slot, and the mean of the slots: the mean over seeds; the bounds are percentiles when dialogues
    are drawn again and, of several seeds, those too."""
    each = [counts(labelled, found) for found in seeds]
    draw = np.random.default_rng(0)
    size = len(labelled)
    picks = [
        (draw.integers(size, size=size), draw.integers(len(each), size=len(each)))
        for _ in range(draws)
    ]
    result = {}
    for metric in (EXACT, OVERLAP):
        values = np.array([[f1(c[metric, s]) for s in SLOTS] for c in each]).mean(0)
        again = np.array([
            np.mean([[f1(each[k][metric, s][rows]) for s in SLOTS] for k in which], axis=0)
            for rows, which in picks
        ])  # fmt: skip
        for name, value, drawn in [
            *zip(SLOTS, values, again.T, strict=True),
            (ALL, values.mean(), again.mean(1)),
        ]:
            lo, hi = np.quantile(drawn, (0.025, 0.975))
            result[metric, name] = Figure(
                float(value), min(float(lo), float(value)), max(float(hi), float(value))
            )
    return result


def wording(span: Span, dialogue: Dialogue, known: Mapping[str, set[str]]) -> str:
    """Which kind of wording says a slot; `known`: all words that each slot has in the training dialogues."""
    text = span.text(dialogue)
    before = dialogue.turns[span.turn - 1].text[: span.start]
    after = dialogue.turns[span.turn - 1].text[span.end :]
    if span.slot == "vessel":
        first = re.search(r"\bthis is\b[^.?!]*$", before, re.IGNORECASE)
        return "after THIS IS" if first else "elsewhere"
    if span.slot == "position":
        if re.search(r"\bdegrees?\b", text, re.IGNORECASE):
            both = len(re.findall(r"\b(?:north|south|east|west)\b", text, re.IGNORECASE)) > 1
            figures = any(c.isdigit() for c in text)
            return f"coordinates in {'figures' if figures else 'words'}" if both else "a bearing"
        if re.search(r"\b(miles?|cables?|nm|kilometres?|metres?)\b", text, re.IGNORECASE):
            return "distance from a place"
        return "a place, or other"
    if span.slot == "persons":
        near = f"{before[-30:]} | {after[:20]}"
        told = (
            "as persons"
            if re.search(r"\bpersons\b", near, re.IGNORECASE)
            else "of crew, souls and others"
        )
        return f"{'figures' if any(c.isdigit() for c in text) else 'words'}, {told}"
    words = set(plain(text))
    if words <= known[span.slot]:
        return "all words known"
    return "some words known" if words & known[span.slot] else "no word known"


def by_wording(
    labelled: Sequence[Labelled], seeds: Sequence[Found], known: Mapping[str, set[str]]
) -> dict[tuple[str, str], tuple[int, float, float]]:
    """By slot and kind of wording of its first true span: how many there are, and the shares that are filled exactly
    and filled with at least half of the words in common (word F1 of the slot), as means over seeds."""
    chosen = [{i: filled(spans) for i, spans in found.items()} for found in seeds]
    table: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in labelled:
        for slot in SLOTS:
            truth = [s for s in one.spans if s.slot == slot]
            if not truth:
                continue
            hits = []
            for seed in chosen:
                said = seed[one.dialogue.id].get(slot)
                right, a, b = overlap(said, truth, one.dialogue)
                near = said is not None and 2 * right >= 0.5 * (a + b)
                hits.append((float(exact(said, truth, one.dialogue)), float(near)))
            kind = wording(truth[0], one.dialogue, known)
            table.setdefault((slot, kind), []).append(tuple(np.mean(hits, axis=0)))
    return {
        key: (len(rows), *(float(v) for v in np.mean(rows, axis=0)))  # type: ignore[misc]
        for key, rows in table.items()
    }


def invented(labelled: Sequence[Labelled], seeds: Sequence[Found]) -> dict[str, tuple[int, float]]:
    """By slot: dialogues that do not say it, and the share of them in which it is filled all the same."""
    result = {}
    for slot in SLOTS:
        without = [d for d in labelled if all(s.slot != slot for s in d.spans)]
        said = [slot in filled(found[d.dialogue.id]) for found in seeds for d in without]
        if without:
            result[slot] = (len(without), sum(said) / len(said))
    return result


def vocabulary(labelled: Iterable[Labelled]) -> dict[str, set[str]]:
    """The words that each slot has."""
    known: dict[str, set[str]] = {slot: set() for slot in SLOTS}
    for one in labelled:
        for span in one.spans:
            known[span.slot] |= set(plain(span.text(one.dialogue)))
    return known
