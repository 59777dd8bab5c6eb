"""The fifteen convolutions on which peft was measured: ours is exact on every one.

peft's result is computed here too and compared with the published record, so that the table of README
cannot outlive the peft it speaks of.
"""

from __future__ import annotations

import pytest

from benchmarks import versus_peft
from benchmarks.versus_peft import CASES, Kind, breadth, entries_changed, ours, theirs
from graftwork_runs import validate_record

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's own


@pytest.mark.parametrize("case", CASES)
def test_row(case: str) -> None:
    mine, other = ours(CASES[case]), theirs(CASES[case])
    print(f"{case}: graftwork {mine} ({mine.error}); peft {other}")
    assert mine.kind is Kind.EXACT and mine.error is not None and mine.error <= 1e-5
    published = validate_record(versus_peft.TARGET)
    rows = {r.variant.split()[0]: r for r in published.find(case=case)}
    assert rows["graftwork"].value is not None
    peft_row = rows["peft"]
    if other.kind is Kind.EXACT:
        assert peft_row.value is not None
    else:
        assert peft_row.value is None and peft_row.note is not None
        assert other.kind.value in peft_row.note


def test_there_are_fifteen_rows() -> None:
    assert len(CASES) == 15


def test_merge_and_unmerge_restore_what_peft_changes() -> None:
    mine, other = entries_changed()
    assert mine == 0 < other


def test_the_record_has_rows_where_peft_wins() -> None:
    published = validate_record(versus_peft.TARGET)
    for name, counts in breadth().items():
        values = tuple(r.value for r in published.find(case=name))
        assert values == counts, f"{name}: run python -m benchmarks.versus_peft again"
        assert counts[1] > counts[0]
