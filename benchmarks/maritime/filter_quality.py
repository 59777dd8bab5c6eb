"""What the filters of the maritime app find in hand-written faults, and what they refuse of dialogues without one.

    python -m benchmarks.maritime.filter_quality                  # the first set
    python -m benchmarks.maritime.filter_quality --set second     # or third, fourth

The cases of `tests/maritime/cases` were written without sight of the filters. The first set has been read since, to
mend the filters, and the others after each was measured blind once; those records stay as they are, and are what the
page shows.
A fault is found by a filter that says something of the faulty dialogue which it does not say of its clean parent: a
false alarm of the parent finds nothing.
The record has, for each kind of fault and each set of filters, the share that is found; for each filter, how many
faults it finds and how many clean dialogues it refuses.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork_maritime.dialogues import from_json
from graftwork_maritime.filters.case import Finding
from graftwork_maritime.filters.reading import case_of
from graftwork_maritime.filters.sets import SETS, judge
from graftwork_runs import Record, Row, environment
from tests.maritime import cases_kit

RECORDS = Path(__file__).parents[1] / "records" / "maritime"
PARTS: Mapping[str, str] = {
    "first": "", "second": cases_kit.SECOND, "third": cases_kit.THIRD, "fourth": cases_kit.FOURTH,
}  # fmt: skip  # folders of the sets
NAMES: Mapping[str, str] = {
    "first": "filter-quality",
    "second": "filter-quality-second-known",
    "third": "filter-quality-third-known",
    "fourth": "filter-quality-fourth-known",
}
# What the page shows of a set: of the later ones the blind measurement, which is not made again.
SHOWN: Mapping[str, str] = {
    **NAMES,
    "second": "filter-quality-second",
    "third": "filter-quality-third",
    "fourth": "filter-quality-fourth",
}
NOTES: Mapping[str, str] = {
    "first": "Cases and filters were written without sight of each other; the first measurement is the record "
    "maritime/filter-quality-blind. Since then these cases are for development: filters, rules and phrases were "
    "written and mended by people who had read the cases and measured as they went.",
    "second": "The cases were written without sight of the filters, by another than those who mended the filters. "
    "The record maritime/filter-quality-second has the one blind measurement; since then filters were mended with "
    "these cases read.",
    "third": "The cases were written without sight of the filters, by another than those who mended the filters. "
    "The record maritime/filter-quality-third has the one blind measurement; since then filters were mended with "
    "these cases read.",
    "fourth": "The cases were written without sight of the filters, by another than those who mended the filters. "
    "The record maritime/filter-quality-fourth has the one blind measurement; since then what was refused has been "
    "read and three ways of saying right things were mended.",
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in SETS},
    "house and grammar": ("house", "grammar"),
    "ours": ("house", "grammar", "phrases"),
    "all": tuple(SETS),
}
EXPECTED, HARDLY, ALL = "kinds for filters", "kinds without a filter", "all kinds"
CLEAN = "clean dialogues"


def findings(raw: Mapping[str, Any]) -> set[Finding]:
    """All that any filter says of a dialogue's JSON."""
    case = case_of(from_json({k: v for k, v in raw.items() if k not in ("fault", "labels")}))
    return {f for filters in SETS.values() for f in judge(case, filters)}


def new(fault: Iterable[Finding], parent: Iterable[Finding]) -> set[str]:
    """Filters that say something of the faulty dialogue which they do not say of its clean parent."""
    known = {(f.filter, f.line, f.reason) for f in parent}
    return {f.filter for f in fault if (f.filter, f.line, f.reason) not in known}


def measure(name: str = "first") -> list[Row]:
    """The rows of a set's record; a few seconds."""
    part = PARTS[name]
    set_of = {f.name: name for name, filters in SETS.items() for f in filters}
    clean = {d["id"]: findings(d) for d in cases_kit.clean(part)}
    found: dict[str, list[set[str]]] = defaultdict(list)
    hits: Counter[str] = Counter()
    for dialogue in cases_kit.violations(part):
        fault = dialogue["fault"]
        caught = new(findings(dialogue), clean[fault["parent"]])
        hits.update(caught)
        kinds = [fault["kind"], HARDLY if fault["uncovered_expected"] else EXPECTED, ALL]
        for kind in kinds:
            found[kind].append(caught)
    rows = []
    for kind, faults in found.items():
        for group, names in GROUPS.items():
            rows.append(_share(kind, group, "recall", faults, set_of, names))
    alarms = {i: {f.filter for f in said} for i, said in clean.items()}
    for group, names in GROUPS.items():
        rows.append(_share(CLEAN, group, "refused", list(alarms.values()), set_of, names))
    for name, group in set_of.items():
        false = sum(name in said for said in alarms.values())
        counts = (
            ("faults found", hits[name], len(found[ALL])),
            ("clean refused", false, len(alarms)),
        )
        rows += [Row(case=name, variant=group, metric=m, value=v, n=n) for m, v, n in counts]
    return rows


def _share(
    case: str, group: str, metric: str, said: list[set[str]], set_of: Mapping[str, str], names: Sequence[str]
) -> Row:  # fmt: skip
    """Of some dialogues, the share of which a filter of the group says something."""
    count = sum(any(set_of[f] in names for f in filters) for filters in said)
    return Row(
        case=case, variant=group, metric=metric, value=round(count / len(said), 4), n=len(said)
    )


def verdict(rows: list[Row]) -> str:
    """What the record shows of the stricter filters."""
    known = {(r.case, r.variant, r.metric): r.value or 0.0 for r in rows}
    recall = known[EXPECTED, "ours", "recall"]
    rest = known[HARDLY, "ours", "recall"]
    alarms = known[CLEAN, "ours", "refused"]
    word = "seen" if recall >= 0.9 and alarms <= 0.05 else "partly"
    return (
        f"{word}: by our three sets, of faults for which a filter is likely {recall:.0%} are found, of the others "
        f"{rest:.0%}; {alarms:.0%} of clean dialogues are refused."
    )


def main() -> int:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.filter_quality", description=__doc__
    )
    parser.add_argument("--set", choices=tuple(PARTS), default="first", help="of cases")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = measure(args.set)
    command = "python -m benchmarks.maritime.filter_quality"
    record = Record(
        record=f"maritime/{NAMES[args.set]}",
        claim="Our filters and the grammar's rules find hand-written faults that they have not seen, and "
        "refuse few dialogues without one.",
        command=command if args.set == "first" else f"{command} --set {args.set}",
        rows=rows,
        notes=[NOTES[args.set], "n is the number of faults, or of clean dialogues."],
        verdict=verdict(rows),
        **environment("cpu"),
    )
    record.write(args.out or RECORDS / f"{NAMES[args.set]}.json")
    print(record.verdict)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
