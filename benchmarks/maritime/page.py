"""Tables of the maritime app's page, from its records."""

from __future__ import annotations

from pathlib import Path

from benchmarks.maritime.filter_quality import ALL, CLEAN, EXPECTED, GROUPS, HARDLY
from graftwork_runs import Record, validate_record
from graftwork_runs.tables import markdown

RECORDS = Path(__file__).parents[1] / "records" / "maritime"


def _known() -> Record:
    return validate_record(RECORDS / "filter-quality.json")


def recall() -> str:
    """Shares of faults found by kind and set, the totals first; then the clean dialogues that are refused."""
    record = _known()
    kinds = list(dict.fromkeys(r.case for r in record.rows if r.metric == "recall"))
    totals = [EXPECTED, HARDLY, ALL]
    rows = []
    for kind in [*totals, *(k for k in kinds if k not in totals)]:
        found = record.find(case=kind, metric="recall")
        name = f"**{kind}**" if kind in totals else kind.replace("_", " ")
        rows.append([name, str(found[0].n), *(f"{100 * (r.value or 0):.0f} %" for r in found)])
    refused = record.find(case=CLEAN, metric="refused")
    shares = [f"{100 * (r.value or 0):.0f} %" for r in refused]
    rows.insert(3, ["**clean dialogues refused**", str(refused[0].n), *shares])
    return markdown(["kind of fault", "cases", *GROUPS], rows) + f"\n\n{record.verdict}"


def alarms() -> str:
    """Each filter that found or refused something: faults found, clean dialogues refused."""
    record = _known()
    rows = []
    for row in record.rows:
        if row.metric == "faults found":
            [false] = record.find(case=row.case, metric="clean refused")
            if row.value or false.value:
                rows.append(
                    [f"`{row.case}`", row.variant, f"{row.value:.0f}", f"{false.value:.0f}"]
                )
    return markdown(["filter", "set", "faults found", "clean dialogues refused"], rows)


GENERATORS = {"maritime/recall": recall, "maritime/alarms": alarms}
