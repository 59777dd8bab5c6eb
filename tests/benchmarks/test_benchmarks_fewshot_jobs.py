"""The list of jobs: names, order, files that a killed run goes on from, and rates from the sweep."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import measured, read, save

from benchmarks.fewshot.__main__ import by_turns, listed
from benchmarks.fewshot.jobs import (
    HEAD_RATES,
    RATES,
    Job,
    Results,
    choose_rate,
    grid_jobs,
    rate_jobs,
    sweep_jobs,
    verdict_jobs,
    with_rates,
)
from benchmarks.fewshot.pool import Clock
from benchmarks.joblist.pool import next_job
from benchmarks.joblist.results import matching
from graftwork import GraftError

TASKS = ("hippocampus", "openkbp-site")


def every_job() -> list[Job]:
    return [j for s in ("rates", "grid", "verdict") for t in TASKS for j in listed(s, t)]


def swept(results: Results, task: str, best: float = 3e-2) -> None:
    """Write a sweep in which the head's best rate is `best` and each arm's the middle one."""
    heads, others = rate_jobs(task, None), rate_jobs(task, best)
    for job in (*heads, *others):
        peak = job.rate == (best if job.arm == "head" else RATES[job.arm][1])
        save(results.folder, [read(measured(job, lambda *_, p=peak: 0.5 + 0.1 * p), job)])


def test_no_two_jobs_share_a_file() -> None:
    names = [job.name for job in every_job()]
    assert len(names) == len(set(names)) > 500


def test_the_least_grid_is_there() -> None:
    have = {(j.task, j.arm, j.k, j.fold, j.budget) for t in TASKS for j in grid_jobs(t)}
    for fold in (0, 1, 2):
        for k in (1, 5, 10):
            for arm in ("head", "bias", "affine", "spatial1", "spatial3", "full", "scratch"):
                assert ("hippocampus", arm, k, fold, None) in have
            for arm in ("lora", "adaptformer", "random", "sea-peft"):
                for budget in (0.001, 0.003, 0.01):
                    assert ("hippocampus", arm, k, fold, budget) in have
        for k in (1, 5):
            for arm in ("head", "affine", "full"):
                assert ("openkbp-site", arm, k, fold, None) in have
            for arm in ("lora", "adaptformer", "random", "sea-peft"):
                assert ("openkbp-site", arm, k, fold, 0.01) in have
    assert len([j for t in TASKS for j in verdict_jobs(t)]) == 27


def test_the_sweep_uses_a_draw_that_the_table_does_not_have() -> None:
    folds = {j.fold for t in TASKS for j in grid_jobs(t)}
    assert not folds & {j.fold for t in TASKS for j in rate_jobs(t, None) + rate_jobs(t, 0.1)}


def test_a_cut_leaves_whole_folds_and_small_k_first() -> None:
    jobs = by_turns([grid_jobs(t) for t in TASKS])
    least = [
        j for j in jobs if not j.draw and (j.task == "hippocampus" or j.budget in (None, 0.01))
    ]
    assert jobs[: len(least)] == least  # what is beyond the least grid comes last
    assert [j.fold for j in least] == sorted(j.fold for j in least)
    order = {5: 0, 1: 1, 10: 2}
    for task in TASKS:
        ks = [order[j.k] for j in least if j.task == task and j.fold == 0]
        assert ks == sorted(ks)
    place = {j.name: i for i, j in enumerate(jobs)}
    for job in jobs:
        if job.arm == "scratch":
            assert job.waits_for is not None and place[job.waits_for.name] < place[job.name]


def test_the_sweeps_unet_waits_for_a_job_of_the_sweep() -> None:
    jobs = rate_jobs("hippocampus", 0.1)
    waits = [j.waits_for for j in jobs if j.arm == "scratch"]
    assert len(waits) == 3 and all(w in jobs for w in waits)


def test_a_result_is_found_again_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    results, job = Results(tmp_path), grid_jobs("hippocampus")[0]
    assert not results.done(job)
    results.write(job, {"status": "done", "dice": 0.5})
    assert results.done(job) and results.read(job)["dice"] == 0.5
    assert Job(**results.all()[0]["job"]) == job
    (tmp_path / ".half.json.1.tmp").write_text("{")  # what a killed writer leaves behind
    assert len(results.all()) == 1
    results.clean()
    assert not list(tmp_path.glob(".*.tmp"))
    for text in ("{", '{"job": {}, "status": "done"}', '{"job": 1}'):
        results.path(job).write_text(text)
        with pytest.raises(GraftError, match=rf"{re.escape(job.name)}.*remove it"):
            results.all()


def test_the_rate_of_the_highest_dice_is_taken(tmp_path: Path) -> None:
    results = Results(tmp_path)
    swept(results, "hippocampus", best=1e-1)
    head, trials = choose_rate(results, rate_jobs("hippocampus", None))
    assert head == 1e-1 and [t["rate"] for t in trials] == list(HEAD_RATES)
    assert {j.head_rate for j in sweep_jobs(results, "hippocampus")} == {1e-1}
    for job in with_rates(results, "hippocampus", grid_jobs("hippocampus")):
        arm = "random" if job.arm == "sea-peft" else job.arm
        assert job.rate == (1e-1 if arm == "head" else RATES[arm][1])
        assert job.head_rate == 1e-1


def test_without_a_finished_sweep_nothing_gets_a_rate(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with pytest.raises(GraftError, match=r"head-r0\.01; let the rates be swept first"):
        with_rates(results, "hippocampus", grid_jobs("hippocampus"))
    swept(results, "hippocampus")
    trial = next(j for j in rate_jobs("hippocampus", 3e-2) if j.arm == "bias")
    results.path(trial).unlink()
    with pytest.raises(GraftError, match="bias"):
        with_rates(results, "hippocampus", grid_jobs("hippocampus"))


def test_a_filter_picks_by_name() -> None:
    jobs = grid_jobs("hippocampus")
    assert {j.arm for j in matching(jobs, "k5-f0-sea-peft")} == {"sea-peft"}
    assert len(matching(jobs, "*-k1-f2-head")) == 1
    assert matching(jobs, None) == jobs
    with pytest.raises(GraftError, match="no job has such a name"):
        matching(jobs, "liver")


def test_a_job_that_would_end_late_or_too_early_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.joblist.pool.time.monotonic", lambda: 100.0)
    results = Results(tmp_path)
    jobs = {j.arm: j for j in grid_jobs("hippocampus") if j.k == 5 and j.fold == 0 and not j.budget}
    clock = Clock(200)
    clock.note(jobs["scratch"], 4.0)
    clock.note(jobs["full"], 8.0)
    waiting = [jobs["scratch"], jobs["full"]]
    assert next_job(waiting, results, clock, None) == jobs["full"]  # the other one waits for it
    assert next_job(waiting, results, clock, 109.9) is None  # 8 s with a margin are 10 s
    assert next_job(waiting, results, clock, 110.1) == jobs["full"]
    results.write(jobs["full"], measured(jobs["full"], lambda *_: 0.5))
    assert next_job(waiting, results, clock, 106.0) == jobs["scratch"]


def test_estimates_come_from_what_was_measured(tmp_path: Path) -> None:
    results, jobs = Results(tmp_path), grid_jobs("hippocampus")
    head = next(j for j in jobs if j.arm == "head")
    for fold, seconds in ((0, 6.0), (1, 8.0), (2, 100.0)):
        job = replace(head, fold=fold)
        results.write(job, {**measured(job, lambda *_: 0.5), "wall": seconds})
    clock = Clock.read(results, 200)
    assert clock.estimate(head) == 8.0  # the median of its arm
    searched = next(j for j in jobs if j.arm == "sea-peft")
    assert clock.estimate(searched) > 2 * clock.estimate(next(j for j in jobs if j.arm == "bias"))
