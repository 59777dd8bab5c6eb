"""The experiments' commands run, at a tiny size, and judge by their rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import graftwork as gw
from benchmarks.methods import geometry, loft, loft_ranks
from graftwork_runs import Record, validate_record


@pytest.mark.parametrize("command", [loft, loft_ranks, geometry])
def test_a_command_writes_a_record(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    assert command.EXPERIMENT.main(["--seeds", "1", "--steps", "3", "--out", str(out)]) == 0  # type: ignore[attr-defined]
    record = validate_record(out)
    assert record.verdict and record.verdict in capsys.readouterr().out
    kept = validate_record(command.EXPERIMENT.target)  # type: ignore[attr-defined]
    assert {(r.case, r.variant, r.metric) for r in record.rows} == {
        (r.case, r.variant, r.metric) for r in kept.rows
    }
    assert len(kept.seeds) >= 5


def changed(record: Record, factor: float, variant: str) -> list:
    return [
        r.model_copy(update={"value": (r.value or 0) * factor}) if r.variant == variant else r
        for r in record.rows
    ]


def test_lofts_verdict_follows_its_rows() -> None:
    record = validate_record(loft.EXPERIMENT.target)
    assert loft.judge(record.rows) == record.verdict
    assert loft.judge(changed(record, 1e-9, "LoFT")).startswith("seen: ")
    assert "at 0 of 4 rates" in loft.judge(changed(record, 1e9, "LoFT"))


def test_lofts_record_shows_tracking_and_the_drift_of_the_transposed_transport() -> None:
    record = validate_record(loft.EXPERIMENT.target)
    for rate in loft.RATES:
        for arm in loft.VARIANTS:
            [row] = record.find(case=f"rate {rate:g}", variant=arm, metric=loft.TRACKING)
            assert row.n == len(record.seeds)
    shown = {(variant, metric) for _, variant, metric in record.details["shown"]}
    assert ("LoFT", loft.TRACKING) in shown and ("LoFT", loft.FINAL) not in shown
    ends = {}
    for arm in ("LoFT", "LoFT, transposed transport"):
        for metric in (loft.EARLIER, loft.DRIFT):
            [ends[arm, metric]] = record.find(variant=arm, metric=metric)
    exact, wrong = ends["LoFT", loft.DRIFT], ends["LoFT, transposed transport", loft.DRIFT]
    assert exact.hi < 1e-8 and wrong.lo > 0.01
    # it goes on drifting, in every seed
    assert wrong.lo > ends["LoFT, transposed transport", loft.EARLIER].hi


def test_lofts_verdict_needs_the_drift() -> None:
    record = validate_record(loft.EXPERIMENT.target)
    near = [
        r.model_copy(update={"value": 0.0})
        if r.metric == loft.DRIFT and "transposed" in r.variant
        else r
        for r in changed(record, 1e-9, "LoFT")
    ]
    assert loft.judge(near).startswith("partly: ")


def test_the_transposed_transport_leaves_adamw_and_loft_does_not() -> None:
    few, many = (loft.drift(loft.TransposedTransport, 0, steps) for steps in (5, 40))
    assert 1e-4 < few < many
    assert loft.drift(gw.LoFT, 0, 40) < 1e-9


def test_the_verdict_on_ranks_needs_an_interval_that_leaves_nought_out() -> None:
    record = validate_record(loft_ranks.EXPERIMENT.target)
    assert loft_ranks.judge(record.rows) == record.verdict

    def judged(spread: tuple[float, float], away: tuple[float, float]) -> str:
        bounds = {loft_ranks.SPREAD: spread, loft_ranks.AWAY: away}
        rows = []
        for row in record.rows:
            for metric, (lo, hi) in bounds.items():
                if row.metric == f"{metric}, {loft_ranks.BEYOND}":
                    row = row.model_copy(update={"lo": lo, "hi": hi, "value": (lo + hi) / 2})
            rows.append(row)
        return loft_ranks.judge(rows).partition(":")[0]

    assert judged((-2.0, -1.0), (-1.0, 1.0)) == "seen"
    assert judged((-2.0, 1.0), (-2.0, -1.0)) == "partly"
    assert judged((-2.0, 1.0), (-1.0, 1.0)) == "not seen at this scale"
    rows = [r for r in record.rows if loft_ranks.BEYOND not in r.metric]
    assert loft_ranks.judge(rows).startswith("not testable here")


def test_arms_of_all_ranks_share_full_fine_tunings_rate() -> None:
    record = validate_record(loft_ranks.EXPERIMENT.target)
    rates = {r.value for r in record.rows if r.metric == loft_ranks.RATE}
    arms = {r.variant for r in record.rows if r.metric == loft_ranks.RATE}
    assert len(rates) == 1 and len(arms) == 1 + len(loft_ranks.OPTIMIZERS) * len(loft_ranks.RANKS)
