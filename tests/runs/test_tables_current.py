"""The published tables are those that the records give; the records are valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import RECORDS, ROOT, main, project_tables
from graftwork import GraftError, cards
from graftwork_runs import Record, Row, validate_record
from graftwork_runs.record import VERDICTS
from graftwork_runs.tables import Tables, figure, markdown, number, record_table, render

PLACE: dict[str, Any] = {
    "record": "area/name",
    "claim": "c",
    "command": "run me",
    "date": "2026-11-23T10:00:00Z",
    "device": "AMD EPYC",
    "versions": {},
}


def row(case: str, variant: str, metric: str, value: float | None, **more: Any) -> Row:
    return Row(case=case, variant=variant, metric=metric, value=value, **more)


def test_every_published_table_is_current() -> None:
    differences = project_tables().update(check=True)
    assert not differences, "run `python -m benchmarks.tables`:\n" + "\n".join(differences)


def test_every_benchmark_record_is_valid_and_has_a_verdict() -> None:
    for path in sorted(RECORDS.rglob("*.json")):
        record = validate_record(path)
        assert record.record == str(path.relative_to(RECORDS).with_suffix("")), path
        assert record.verdict and record.verdict.startswith(VERDICTS), path


def test_the_method_table_names_every_method() -> None:
    table = project_tables().table("methods")
    assert len(cards()) >= 7
    assert len(table.splitlines()) == 2 + len(cards())
    for card in cards():
        assert f"`gw.{card['class']}`" in table


def a_tree(root: Path, text: str) -> Tables:
    page = root / "README.md"
    page.write_text(text)
    return Tables(root, root / "records", {"two": lambda: "2\n"}, [page])


def test_a_difference_is_found_and_mended(tmp_path: Path) -> None:
    tables = a_tree(tmp_path, "a\n<!-- table: two -->\n<!-- /table -->\nb\n")
    [difference] = tables.update(check=True)
    assert "+2" in difference
    assert "2\n" not in (tmp_path / "README.md").read_text()
    assert len(tables.update()) == 1
    expected = "a\n<!-- table: two -->\n2\n<!-- /table -->\nb\n"
    assert (tmp_path / "README.md").read_text() == expected
    assert tables.update(check=True) == []
    # A figure changed by hand is a difference again.
    (tmp_path / "README.md").write_text(expected.replace("2", "3"))
    assert len(tables.update(check=True)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table: two -->\n",
        "<!-- /table -->\n",
        "<!-- table: two -->\n<!-- table: two -->\n<!-- /table -->\n",
        "<!-- table -->\n<!-- /table -->\n",
    ],
)
def test_marks_without_a_partner_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(GraftError, match=r"README\.md"):
        a_tree(tmp_path, text).update()
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize("name", ["three", "area/none", "../records/area/name"])
def test_an_unknown_table_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GraftError, match="no generator"):
        a_tree(tmp_path, "").table(name)


def test_a_record_is_found_by_its_path(tmp_path: Path) -> None:
    record = Record(**PLACE, rows=[row("a", "ours", "ms", 1.5, unit="ms")])
    record.write(tmp_path / "records" / "area" / "name.json")
    assert "| ours | 1.50 ms |" in a_tree(tmp_path, "").table("area/name")
    (tmp_path / "records" / "area" / "name.json").write_text(json.dumps({"record": "area/name"}))
    with pytest.raises(GraftError, match="Field required"):
        a_tree(tmp_path, "").table("area/name")


def test_records_are_laid_out_by_what_varies() -> None:
    one = Record(
        **PLACE,
        seeds=[0, 1, 2],
        rows=[
            row("stride 2", "ours", "error", 2.5e-7),
            row("stride 2", "peft", "error", None, note="crash | TypeError"),
            row("groups 2", "ours", "error", 1e-7),
        ],
    )
    lines = record_table(one).splitlines()
    assert lines[0] == "| case | ours | peft |"
    assert lines[2] == "| stride 2 | 2.5e−07 | crash \\| TypeError |"
    assert lines[3] == "| groups 2 | 1.0e−07 | – |"
    assert "AMD EPYC" in lines[-1] and "seeds 0 to 2" in lines[-1] and "`run me`" in lines[-1]
    several = Record(
        **PLACE,
        rows=[
            row("all", "base", "dice", 0.3, lo=0.25, hi=0.35),
            row("all", "base", "kB", 0),
            row("all", "graft", "dice", 0.8),
            row("all", "graft", "kB", 96),
        ],
    )
    lines = record_table(several).splitlines()
    assert lines[0] == "| variant | dice | kB |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[2] == "| base | 0.300 (0.250 to 0.350) | 0 |"
    assert record_table(several, metrics=["kB"]).splitlines()[2] == "| all | 0 | 96 |"
    with pytest.raises(GraftError, match="repeat"):
        record_table(Record(**PLACE, rows=[row("a", "b", "c", 1), row("a", "b", "c", 2)]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1, "0.100"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5, "1,234"),
        (1_176_204, "1,176,204"),
        (-0.5, "−0.500"),
        (1.24e-5, "1.2e−05"),
        (2.0, "2"),
    ],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert number(value) == text


def test_cells_without_a_figure() -> None:
    assert figure(None) == "–"
    assert figure(row("a", "b", "c", None, note="refused")) == "refused"
    assert markdown(["a"], []).splitlines() == ["| a |", "| --- |"]


def test_text_around_the_marks_is_kept_to_the_byte() -> None:
    text = "# T\n\n<!-- table: x -->\nold\n\nold\n<!-- /table -->  \ntail without newline"
    fresh = render(Path("p"), text, lambda name: f"new {name}")
    assert fresh == "# T\n\n<!-- table: x -->\nnew x\n<!-- /table -->  \ntail without newline"


def test_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = a_tree(tmp_path, "<!-- table: two -->\n<!-- /table -->\n")
    monkeypatch.setattr("benchmarks.tables.project_tables", lambda: tables)
    assert main(["--check"]) == 1
    assert "python -m benchmarks.tables" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "README.md").write_text("<!-- table: nine -->\n<!-- /table -->\n")
    assert main(["--check"]) == 2
    assert "nine" in capsys.readouterr().err
    assert (ROOT / "benchmarks").is_dir()
