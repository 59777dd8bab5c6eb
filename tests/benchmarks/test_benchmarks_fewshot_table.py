"""The table from made-up job files: intervals, pairing, what is missing, hindsight, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import CASES, TRAINED, a_grid, measured, read, save, verdict

from benchmarks.fewshot import collect, figure, page, table
from benchmarks.fewshot.jobs import Job, grid_jobs, rate_jobs, verdict_jobs
from benchmarks.fewshot.statistics import difference, matrix, mean
from graftwork import GraftError
from graftwork_runs import Row, validate_record
from graftwork_runs.tables import render

TASK = ("hippocampus",)
SPREAD = dict(zip(CASES, (-0.06, -0.02, 0.02, 0.06), strict=True))


def plain(job: Job, case: str) -> float:
    """SEA-PEFT 0.05 above random, 0.02 below the best that fits: affine, and at 0.1 % bias."""
    gain = {"sea-peft": 0.15, "random": 0.10, "affine": 0.17, "bias": 0.16, "spatial3": 0.3}
    return 0.5 + gain.get(job.arm, 0.0) + SPREAD[case] + 0.01 * job.fold


def rows_of(results: list[dict[str, Any]], make: Any = collect.grid_rows) -> list[Row]:
    return list(make(collect.cells(results, TASK)))


def the(rows: list[Row], **wanted: Any) -> Row:
    [row] = [r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


# -- intervals --------------------------------------------------------------------------------------

score = st.floats(0, 1, width=32)
grids = st.integers(1, 4).flatmap(
    lambda folds: st.lists(st.lists(score, min_size=5, max_size=5), min_size=folds, max_size=folds)
)


def as_scores(rows: list[list[float]]) -> dict[int, dict[str, float]]:
    return {f: {f"c{i}": v for i, v in enumerate(row)} for f, row in enumerate(rows)}


@given(grids)
def test_an_interval_holds_the_mean_and_lies_in_the_range(rows: list[list[float]]) -> None:
    found, flat = mean(as_scores(rows)), [v for row in rows for v in row]
    assert found.value == pytest.approx(np.mean(flat))
    assert found.lo is not None and found.hi is not None
    assert min(flat) - 1e-9 <= found.lo <= found.value + 1e-9
    assert found.value - 1e-9 <= found.hi <= max(flat) + 1e-9
    assert (found.folds, found.cases, found.n) == (len(rows), 5, 5 * len(rows))


@given(grids, st.floats(-1, 1))
def test_the_difference_to_a_shifted_copy_is_the_shift(rows: list[list[float]], by: float) -> None:
    a = as_scores(rows)
    b = {f: {c: v + by for c, v in one.items()} for f, one in a.items()}
    found = mean(difference(a, b))
    assert found.value == pytest.approx(-by)
    assert found.lo == pytest.approx(-by) and found.hi == pytest.approx(
        -by
    )  # pairs leave no spread


def test_the_interval_is_as_wide_as_it_should_be() -> None:
    draw = np.random.default_rng(1)
    cases = draw.normal(0, 1, 400)
    same = mean({f: {str(i): v for i, v in enumerate(cases)} for f in range(3)})
    assert same.hi is not None and same.lo is not None
    # folds that repeat each other bring no information: the width is that of the cases alone
    assert same.hi - same.lo == pytest.approx(2 * 1.96 * cases.std() / 20, rel=0.1)
    folds = mean({f: {str(i): float(f) for i in range(50)} for f in range(12)})
    assert folds.hi is not None and folds.lo is not None
    assert folds.hi - folds.lo == pytest.approx(2 * 1.96 * np.arange(12).std() / 12**0.5, rel=0.1)


def test_pairs_need_a_fold_and_a_case_in_common() -> None:
    a = {0: {"x": 1.0, "y": 2.0}, 1: {"x": 3.0}}
    assert difference(a, {0: {"y": 0.5, "z": 9.0}}) == {0: {"y": 1.5}}
    with pytest.raises(GraftError, match="in common"):
        difference(a, {2: {"x": 1.0}})
    with pytest.raises(GraftError, match="every fold"):
        matrix({0: {"x": 1.0}, 1: {"y": 1.0}})


def test_a_single_score_has_no_interval() -> None:
    found = mean({0: {"x": 0.5}})
    assert (found.value, found.lo, found.hi, found.n) == (0.5, None, None, 1)


# -- the table --------------------------------------------------------------------------------------


def test_a_whole_grid_gives_means_over_folds_cases_and_organs() -> None:
    results = a_grid(plain)
    rows = rows_of(results)
    row = the(rows, case="hippocampus, 5 shots", variant="affine", metric="dice")
    assert row.value == pytest.approx(0.68) and row.n == 12
    assert row.lo is not None and row.hi is not None and row.lo < 0.68 < row.hi
    assert row.note == "3 folds x 4 cases"
    assert the(rows, case="hippocampus, 1 shot", variant="bias", metric="hd95").value == 2.0
    trained = the(rows, case="hippocampus, 1 shot", variant="bias", metric="trained parameters")
    assert trained.value == TRAINED["bias"]
    spent = the(rows, case="hippocampus, 1 shot", variant="sea-peft, 1 %", metric="seconds")
    assert spent.value == 8.0  # the search's too
    share = {"case": "hippocampus, 1 shot", "metric": "share of time in audits"}
    assert the(rows, variant="sea-peft, 1 %", **share).value == 0.5
    assert the(rows, variant="full", **share).value == 0.0


def test_what_is_missing_is_printed_as_missing() -> None:
    def skip(job: Job) -> bool:
        return (job.k == 10 and job.arm == "full") or (job.fold == 1 and job.arm == "affine")

    results = a_grid(plain, skip)
    rows = rows_of(results)
    gone = the(rows, case="hippocampus, 10 shots", variant="full")
    assert gone.value is None and gone.n == 0 and gone.note == "missing: n = 0 of 3 folds"
    part = the(rows, case="hippocampus, 5 shots", variant="affine", metric="dice")
    assert part.n == 8 and part.note == "2 folds x 4 cases; 1 of 3 folds missing"
    fits = the(rows, case="hippocampus, 5 shots", variant="lora, 0.3 %")
    assert fits.value is None and fits.note == "does not fit: trains too much"
    text = page.results(table.build(results, TASK, "run"))
    assert "| hippocampus, 10 shots | full | – (missing) |" in text
    shown, _, refused = text.partition("Above the cap")
    assert "lora, 0.3 %" not in shown and "lora (hippocampus) at 0.1 %, 0.3 %, 1 %" in refused


def test_random_draws_are_averaged_before_anything_else() -> None:
    results = a_grid(lambda job, case: plain(job, case) + 0.03 * job.draw)
    row = the(rows_of(results), case="hippocampus, 5 shots", variant="random, 1 %", metric="dice")
    assert row.value == pytest.approx(0.64) and row.n == 12
    assert row.note == "3 folds x 4 cases x 3 sets"


def test_comparisons_are_paired_and_hindsight_sees_only_what_fits() -> None:
    results = a_grid(plain)
    rows = rows_of(results, collect.compared_rows)
    at = {"case": "hippocampus, 5 shots"}
    rival = the(rows, variant="sea-peft, 1 % minus random", **at)
    assert rival.value == rival.lo == rival.hi == pytest.approx(0.05)
    # spatial3 is the best by far and has 3,500 parameters: it fits 1 %, not 0.3 %
    assert "spatial3" in str(the(rows, variant="sea-peft, 1 % minus best fixed choice", **at).note)
    middle = the(rows, variant="sea-peft, 0.3 % minus best fixed choice", **at)
    assert middle.value == pytest.approx(-0.02) and str(middle.note).startswith("affine")
    least = the(rows, variant="sea-peft, 0.1 % minus best fixed choice", **at)
    assert least.value == pytest.approx(-0.01) and str(least.note).startswith("bias")


def test_one_fixed_choice_is_the_same_for_all_numbers_of_shots() -> None:
    def dice(job: Job, case: str) -> float:
        up = {("bias", 1): 0.3, ("head", 1): 0.2, ("head", 5): 0.2, ("head", 10): 0.2}
        return 0.3 + up.get((job.arm, job.k), 0.0) + SPREAD[case]

    results = a_grid(dice)
    rows = rows_of(results, collect.compared_rows)
    at = {"case": "hippocampus, 1 shot"}
    assert str(the(rows, variant="sea-peft, 1 % minus best fixed choice", **at).note)[:4] == "bias"
    assert str(the(rows, variant="sea-peft, 1 % minus one fixed choice", **at).note)[:4] == "head"


def test_a_comparison_without_a_partner_is_missing() -> None:
    results = a_grid(plain, lambda job: job.arm == "random" and job.k == 1)
    row = the(
        rows_of(results, collect.compared_rows),
        case="hippocampus, 1 shot", variant="sea-peft, 1 % minus random",
    )  # fmt: skip
    assert row.value is None and row.note == "missing: random" and row.n == 0


def a_difference(value: float, lo: float, hi: float) -> Row:
    return Row(
        case="c", variant="sea-peft, 1 % minus best fixed choice", metric="Dice difference",
        value=value, lo=lo, hi=hi, n=9,
    )  # fmt: skip


def test_the_claim_is_judged_by_the_comparisons() -> None:
    strong, weak, bad = (
        a_difference(0.03, 0.01, 0.05), a_difference(0.01, -0.01, 0.03), a_difference(-0.02, -0.03, -0.01)
    )  # fmt: skip
    assert page.claim_of([])[0] == "not testable here"
    assert page.claim_of([strong, strong])[0] == "seen"
    assert page.claim_of([strong, weak])[0] == "partly"
    word, said = page.claim_of([weak, bad])
    assert "random" not in said
    assert word == "not seen at this scale"
    assert "-2.0 to +1.0 Dice points" in said and "above 0 in 0 and below 0 in 1" in said


def test_record_and_page_are_written_and_stay_the_same(tmp_path: Path) -> None:
    folder, record, target = tmp_path / "jobs", tmp_path / "r.json", tmp_path / "p.md"
    sweep = rate_jobs("hippocampus", 3e-2)
    save(folder, a_grid(plain))
    save(folder, [read(measured(job, lambda j, _: j.rate), job) for job in sweep])
    made = table.write(folder, TASK, "run", record, target)
    assert validate_record(record) == made
    assert made.verdict is not None and made.verdict.startswith("not seen at this scale: ")
    assert made.details["rates at an edge of their grid"][-1] == "hippocampus: spatial3 at 0.01"
    text = target.read_text()
    assert "**Here: not seen at this scale.**" in text and "<!-- table: few-shot -->" in text
    assert render(target, text, lambda name: page.TABLES[name](made)) == text
    picture = target.with_suffix(".png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    drawn = figure.points(made)["hippocampus, 5 shots"]
    assert [cap for cap, _ in drawn["sea-peft"]] == ["0.1 %", "0.3 %", "1 %"]
    assert [cap for cap, _ in drawn["lora"]] == [figure.ABOVE]  # where it fits no cap
    assert "within 0.3 %" in text  # affine has no size, and the table says which cap holds it


def test_results_of_two_settings_are_not_mixed(tmp_path: Path) -> None:
    one, other = grid_jobs("hippocampus")[:2]
    save(tmp_path, [read(measured(one, plain), one), read(measured(other, plain, steps=2), other)])
    with pytest.raises(GraftError, match="keep the files of one setting"):
        table.write(tmp_path, TASK, "run", tmp_path / "r.json", tmp_path / "p.md")
    with pytest.raises(GraftError, match="no job file"):
        table.write(tmp_path / "empty", TASK, "run", tmp_path / "r.json", tmp_path / "p.md")


# -- verdicts ---------------------------------------------------------------------------------------


def test_words_are_judged_by_the_test() -> None:
    better, none, worse = "better", "no evidence", "worse"
    assert collect.kind_of(better, better) == collect.kind_of(none, none) == "right"
    assert collect.kind_of(none, worse) == collect.kind_of(none, better) == "too careful"
    assert collect.kind_of(better, none) == collect.kind_of(worse, none) == "unproven"
    assert collect.kind_of(better, worse) == collect.kind_of(worse, better) == "wrong"


def test_the_worst_loss_is_that_of_an_accepted_graft() -> None:
    jobs = verdict_jobs("openkbp-site")
    said = [
        ("better", "better", 0.2, False),
        ("better", "no evidence", -0.01, True),
        ("no evidence", "worse", -0.05, True),
        ("worse", "worse", -0.4, True),
    ]
    results = [
        read(verdict(job, word, true, gap, known), job)
        for job, (word, true, gap, known) in zip(jobs, said, strict=False)
    ]
    rows = collect.verdict_rows(results)
    every = {"case": "verdict, all"}
    assert the(rows, metric="right", **every).value == 0.5
    assert the(rows, metric="too careful", **every).note == "1 of 4 tasks"
    worst = the(rows, metric="worst test difference where the word was better", **every)
    assert worst.value == -0.01 and worst.n == 2 and worst.note == "openkbp-site SpinalCord, fold 0"
    assert (
        the(rows, metric="worst test difference where the word was not worse", **every).value
        == -0.05
    )
    new = {"case": "verdict, organs that are new to it"}
    assert the(rows, metric="right", **new).value == 1.0
    assert the(rows, metric="said better", **every).value == 2.0


def test_without_verdicts_the_table_says_so() -> None:
    row = collect.verdict_rows([])[0]
    assert row.value is None and row.note == "missing: no task is done"
