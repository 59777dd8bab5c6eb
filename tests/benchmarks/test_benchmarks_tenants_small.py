"""The small experiment of tenants: its arms, its words, at a size that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tenants import arms, page, small
from graftwork_runs import Row, validate_record


def test_it_runs_and_writes_a_record(tmp_path: Path) -> None:
    out = tmp_path / "small.json"
    words = "--layers 1 --hidden 16 --shrink 32 --rounds 2 --warmup 0 --tasks 1 3"
    assert small.main([*words.split(), "--out", str(out)]) == 0
    record = validate_record(out)
    assert record.verdict is not None
    assert str(tmp_path) not in out.read_text()
    assert "--tasks 1 3" in record.command
    by = {(r.case, r.variant, r.metric): r.value for r in record.rows}
    for name in (
        arms.OWN,
        arms.ALONE,
        arms.PADDED,
        arms.CHUNKED,
        arms.PACKED,
        arms.PLANNED,
        arms.FAIR,
        arms.CAPPED,
    ):
        assert by["3 tasks", name, "real tokens"]
        assert 0 <= (by["3 tasks", name, "waste"] or 0) < 1
        if name != arms.OWN:
            assert by["3 tasks", name, small.TOLD]
    assert by["3 tasks", arms.OWN, "memory"] > by["3 tasks", arms.ALONE, "memory"]
    assert by["3 tasks", arms.CAPPED, small.OVER] < 1.2
    for name in (arms.PADDED, arms.CHUNKED, arms.PACKED):
        assert (by["3 tasks, float64, 3 steps", name, small.WEIGHTS] or 0) < 1e-8
    assert by["cost model", "its own passes", "memory off by"] is not None


def test_parts_are_kept_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--layers",
        "1",
        "--hidden",
        "16",
        "--shrink",
        "32",
        "--rounds",
        "2",
        "--warmup",
        "0",
        "--tasks",
        "1",
        "2",
    ]
    words += ["--out", str(tmp_path / "other.json"), "--jobs", str(tmp_path / "jobs.jsonl")]
    case = small._case

    def failing(count: int, *more: object) -> object:
        if count == 2:
            raise RuntimeError("no memory")
        return case(count, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(small, "_case", failing)
    assert small.main(words) == 0
    first = validate_record(tmp_path / "other.json")
    assert first.record == "tenants/other"
    assert first.verdict == "not testable here: 2 tasks: failed: RuntimeError: no memory"
    assert any(r.case == "1 task" and r.value for r in first.rows)

    monkeypatch.setattr(small, "_case", case)
    assert small.main(words) == 0
    second = validate_record(tmp_path / "other.json")
    assert [r for r in second.rows if r.case == "1 task"] == [
        r for r in first.rows if r.case == "1 task"
    ]
    assert any(r.case == "2 tasks" and r.value for r in second.rows)


def rows(**changes: float) -> list[Row]:
    """What a good outcome looks like, but for some figures."""
    found = {
        "own memory": 8.0, "alone memory": 2.0, "planned memory": 3.0, "capped memory": 2.4,
        "alone step": 10.0, "planned step": 6.0, "over": 0.9, "faster": 1.0, "off": 0.1, "far": 1e-12,
    } | {k.replace("_", " "): v for k, v in changes.items()}  # fmt: skip

    def row(variant: str, metric: str, key: str, case: str = "8 tasks") -> Row:
        note = arms.PACKED if metric == small.FASTER else None
        return Row(case=case, variant=variant, metric=metric, value=found[key], note=note)

    return [
        row(arms.OWN, "memory", "own memory"),
        row(arms.ALONE, "memory", "alone memory"),
        row(arms.PLANNED, "memory", "planned memory"),
        row(arms.CAPPED, "memory", "capped memory"),
        row(arms.ALONE, "step", "alone step"),
        row(arms.PLANNED, "step", "planned step"),
        row(arms.FAIR, "step", "alone step"),
        row(arms.CAPPED, small.OVER, "over"),
        row(arms.PLANNED, small.FASTER, "faster"),
        row(arms.PLANNED, small.OFF, "off"),
        row(arms.PACKED, small.WEIGHTS, "far", "8 tasks, float64, 3 steps"),
    ]


@pytest.mark.parametrize(
    ("changes", "start", "words"),
    [
        ({}, "seen", "no simple plan is faster"),
        ({"faster": 1.05}, "seen", "8 tasks: together, packed is 5.0% faster than the plan"),
        ({"off": 0.4}, "seen", "within 40%"),
        ({"far": 1e-3}, "not seen", "not kept apart"),
        ({"faster": 1.3}, "partly", "together, packed is faster than the plan"),
        ({"over": 1.01}, "partly", "over its cap"),
        ({"planned_memory": 9.0}, "partly", "more memory than copies"),
        ({"planned_step": 12.0}, "partly", "0.83 times the speed"),
    ],
)
def test_the_verdict_follows_from_the_rows(
    changes: dict[str, float], start: str, words: str
) -> None:
    verdict = small.judge(rows(**changes))
    assert verdict.startswith(start)
    assert words in verdict


def test_batches_are_as_they_say() -> None:
    import argparse

    options = argparse.Namespace(shrink=1, device="cpu")
    for i, (mean, count) in enumerate(zip(arms.MEANS, arms.BATCHES, strict=True)):
        found = arms.batch(i, options)
        lengths = (found["labels"] != -100).sum(1)
        assert lengths.tolist() == found["lengths"]
        assert len(lengths) == count
        assert int(lengths.max()) == found["input_ids"].shape[1]
        assert mean // 2 <= int(lengths.min())
        assert int(lengths.max()) <= 1.5 * mean


def test_the_page_has_a_line_for_each_run() -> None:
    record = validate_record(small.TARGET)
    text = page.table(record)
    for name in (arms.OWN, arms.ALONE, arms.PADDED, arms.CHUNKED, arms.PACKED, arms.PLANNED):
        assert text.count(f"| {name} |") == 4
    assert "| other passes | memory off by |" in text
