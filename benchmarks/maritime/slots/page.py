"""Tables of the slot extractor's page, from its record."""

from __future__ import annotations

from collections import Counter

from benchmarks.maritime.slots import score
from benchmarks.maritime.slots.collect import NOT_RUN, TARGET, TRAINED
from benchmarks.maritime.slots.sets import COMPOSED, FILES
from benchmarks.maritime.slots.spans import SLOTS
from benchmarks.maritime.slots.work import ARMS, RULES
from graftwork_runs import Record, validate_record
from graftwork_runs.tables import figure, markdown, source

COLUMNS = (score.ALL, *SLOTS)
MISSED = ("filled exactly", "half right")


def f1() -> str:
    """Exact and word F1 by set, arm and slot; then what was trained."""
    record = validate_record(TARGET)
    parts = []
    for name in (COMPOSED, *FILES):
        for metric in (score.EXACT, score.OVERLAP):
            rows = []
            for arm in ARMS:
                cells = [_cell(record, f"{name}: {slot}", arm, metric) for slot in COLUMNS]
                if all(cells):
                    rows.append([arm, *cells])
            if rows:
                count = record.find(case=f"{name}: {score.ALL}", metric=metric)
                n = next(row.n for row in count if row.n)
                title = f"**{name}, {n} dialogues: {metric}**"
                parts += [title, markdown(["trained", *COLUMNS], rows)]
    trained = [
        [
            row.variant,
            f"{row.value:,.0f}",
            *map(figure, record.find(case=TRAINED, variant=row.variant, metric="time")),
            *(r.note or "" for r in record.find(case=TRAINED, variant=row.variant, metric="time")),
        ]
        for row in record.find(case=TRAINED, metric="parameters")
    ]
    missing = Counter(r.variant for r in record.rows if r.note == NOT_RUN)
    if missing:
        of = len(dict.fromkeys(r.case for r in record.rows if r.case.endswith(score.ALL)))
        told = [arm if n == of else f"{arm} on {n} of {of} sets" for arm, n in missing.items()]
        parts.append(f"{NOT_RUN.capitalize()}: {', '.join(told)}.")
    if trained:
        parts.append(markdown(["trained", "parameters", "time", "on"], trained))
    return "\n\n".join([*parts, " ".join([source(record), *record.notes])]) + "\n"


def missed() -> str:
    """Shares by kind of wording on the hand-written sets; slots that are filled though nobody said them."""
    record = validate_record(TARGET)
    parts = []
    for name in FILES:
        arms = [arm for arm in ARMS if _wordings(record, name, arm)]
        rows = []
        for case in _wordings(record, name, RULES) if arms else []:
            found = {(r.variant, r.metric): r for r in record.find(case=case)}
            first = next(iter(found.values()))
            _, slot, kind = case.split(": ", 2)
            cells = [
                " / ".join(f"{100 * (found[arm, m].value or 0):.0f} %" for m in MISSED if (arm, m) in found)
                or f"{100 * (found[arm, 'filled all the same'].value or 0):.0f} % filled"
                for arm in arms
            ]  # fmt: skip
            rows.append([slot, kind, str(first.n), *cells])
        if rows:
            parts += [f"**{name}**", markdown(["slot", "wording", "n", *arms], rows)]
    return "\n\n".join(parts) + "\n"


def _wordings(record: Record, name: str, arm: str) -> list[str]:
    """The cases of a set's kinds of wording that an arm has, by slot."""
    cases = dict.fromkeys(r.case for r in record.find(variant=arm) if r.case.startswith(f"{name}: "))  # fmt: skip
    parts = [case for case in cases if case.count(": ") == 2]
    return sorted(parts, key=lambda case: SLOTS.index(case.split(": ")[1]))


def _cell(record: Record, case: str, arm: str, metric: str) -> str:
    """A figure with its bounds; empty where it was not measured."""
    found = record.find(case=case, variant=arm, metric=metric)
    if not found or found[0].value is None:
        return ""
    return f"{found[0].value:.2f} ({found[0].lo:.2f} to {found[0].hi:.2f})"


GENERATORS = {"maritime/slots": f1, "maritime/slots-missed": missed}
