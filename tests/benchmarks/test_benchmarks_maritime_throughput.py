"""The throughput benchmark's logic, without a time that is asserted: rows, what fails, what the verdict says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.maritime import headline
from benchmarks.maritime.throughput import (
    BASE,
    CONSTRAINED,
    GRAFT,
    RATE,
    TOKENS,
    Bench,
    main,
    measured,
    verdict,
)
from graftwork_runs import Row, validate_record


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    headline.prepare(folder, {"test": 3})
    return folder


def test_each_variant_and_batch_has_rows_and_a_failing_one_says_why(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(data, "tiny", None, "cpu", 5)
    whole = bench._complete(GRAFT, [0, 1], 5)
    assert [len(row) for row in whole] == [5, 5]
    calls: list[tuple[str, int]] = []
    warmed: list[tuple[str, int]] = []
    real = bench._complete

    def complete(variant: str, rows: list[int], most: int) -> list[list[int]]:
        (calls if most == 5 else warmed).append((variant, len(rows)))
        if variant == CONSTRAINED and len(rows) == 2:
            raise MemoryError("too much")
        return real(variant, rows, most)

    monkeypatch.setattr(bench, "_complete", complete)
    rows = measured(bench, [1, 2], 3, 2, "cpu")
    assert len(rows) == 12 and {r.metric for r in rows} == {RATE, TOKENS}
    assert calls.count((BASE, 1)) == 6 + 2 and calls.count((GRAFT, 2)) == 2
    assert warmed == [(variant, n) for n in (1, 2) for variant in (BASE, GRAFT, CONSTRAINED)]
    [failed] = [r for r in rows if r.value is None and r.metric == RATE]
    assert failed.variant == f"{CONSTRAINED}, 2 at once" and failed.note == "MemoryError: too much"
    [rate] = [r for r in rows if r.variant == f"{BASE}, 2 at once" and r.metric == RATE]
    [tokens] = [r for r in rows if r.variant == f"{BASE}, 2 at once" and r.metric == TOKENS]
    assert rate.value and tokens.value == pytest.approx(rate.value * 5 / 60, abs=0.01)
    assert rate.lo <= rate.value <= rate.hi and rate.n == 2


def test_what_is_measured_stays_when_a_run_is_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(bench: Bench, variant: str, batch: int, count: int) -> float:
        if variant == CONSTRAINED:
            raise KeyboardInterrupt
        return 2.0

    monkeypatch.setattr(Bench, "write", write)
    out = tmp_path / "record.json"
    with pytest.raises(KeyboardInterrupt):
        main(["--data", str(data), "--tiny", "--batches", "1", "--out", str(out)])
    rows = validate_record(out).find(metric=RATE)
    assert [(r.variant, r.value) for r in rows] == [
        (f"{variant}, 1 at once", 30.0) for variant in (BASE, GRAFT)
    ]


def test_the_base_is_the_graft_switched_off(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(data, "tiny", None, "cpu", 3)
    seen: dict[str, list[list[int]]] = {}
    real = bench._complete
    for p in bench.graft.parameters():
        p.data += 0.5

    def complete(variant: str, rows: list[int], most: int) -> list[list[int]]:
        seen[variant] = real(variant, rows, most)
        return seen[variant]

    monkeypatch.setattr(bench, "_complete", complete)
    for variant in (BASE, GRAFT):
        bench.write(variant, 3, 3)
    assert seen[BASE] != seen[GRAFT]


def test_the_verdict_compares_the_batch_with_one_by_one() -> None:
    def row(variant: str, value: float | None) -> Row:
        note = None if value else "why"
        return Row(case="cpu", variant=variant, metric=RATE, value=value, note=note)

    rows = [row("graft, 1 at once", 2.0), row("graft, 8 at once", 6.0), row("base, 8 at once", 7.0)]
    assert verdict(rows) == (
        "seen: base, 8 at once 7.0; graft, 8 at once 6.0 dialogues a minute, against 2.0 of the graft one by one."
    )
    assert verdict([row("graft, 1 at once", 2.0), row("graft, 8 at once", 1.0)]).startswith(
        "not seen"
    )
    assert verdict([row("graft, 1 at once", None)]).startswith("not testable")


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.json"
    assert main(["--data", str(data), "--tiny", "--batches", "1", "2", "--out", str(out)]) == 0
    record = validate_record(out)
    assert record.command == "python -m benchmarks.maritime.throughput --tiny --batches 1 2"
    assert record.details["tokens of a dialogue"] == 8 and str(data) not in out.read_text()
    assert main(["--data", str(data), "--batches", "0"]) == 2
    assert main(["--data", str(tmp_path / "no"), "--tiny"]) == 2
    assert "test.jsonl" in capsys.readouterr().err
