"""The table of the filters' quality is that of the filters and cases as they are; faults found and false alarms."""

from __future__ import annotations

import pytest

from benchmarks.maritime import filter_quality, page
from graftwork_maritime.filters.case import Finding
from graftwork_runs import validate_record
from tests.maritime import cases_kit

# A set whose cases are not written yet has no record.
MEASURED = [n for n, part in filter_quality.PARTS.items() if (cases_kit.CASES / part).is_dir()]


def test_every_set_has_cases_a_record_and_a_note() -> None:
    names = set(filter_quality.NAMES)
    assert set(MEASURED) <= set(filter_quality.PARTS) == names == set(filter_quality.NOTES)


def test_what_the_parent_has_too_is_not_found() -> None:
    old, late = Finding("mayday", 1, "twice"), Finding("mayday", 2, "twice")
    assert filter_quality.new({old}, {old}) == set()
    assert filter_quality.new({old, late}, {old}) == {"mayday"}


@pytest.mark.parametrize("name", MEASURED)
def test_the_record_is_what_the_filters_do(name: str) -> None:
    known = validate_record(filter_quality.RECORDS / f"{filter_quality.NAMES[name]}.json")
    rows = filter_quality.measure(name)
    assert list(known.rows) == rows
    assert known.verdict == filter_quality.verdict(rows)


@pytest.mark.parametrize("name", MEASURED)
def test_the_tables_show_totals_and_clean_dialogues_first(name: str) -> None:
    lines = page.recall(name).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "**kinds for filters**", "**kinds without a filter**", "**all kinds**",
        "**clean dialogues refused**",
    ]  # fmt: skip
    assert "`mmsi_form`" in page.alarms(name)
