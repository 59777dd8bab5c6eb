"""The report of a shared run: every job's curve, each plan's waste, and what failed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import GraftError
from graftwork_runs.many import CURVES, report


def told(count: int, **more: Any) -> dict[str, Any]:
    """As a run leaves it."""
    job = {
        "app": "maritime",
        "method": "lora",
        "trained": 928,
        "priority": 1,
        "status": "done",
        "step": 4,
        "steps": 4,
        "rows": 16,
        "failures": [],
    }
    plan = {"groups": 2, "seconds": 0.11, "bytes": 3 * 2**20, "fits": True, "fair": True}
    names = ("planned", "all alone", "all together")
    run = {"rows": 16, "tasks": 1, "seconds": 0.025}
    return {
        "jobs": [
            {**job, "name": f"job-{i}", "curve": [[s, 3.0 - 0.1 * s + i] for s in range(1, 5)]}
            for i in range(count)
        ],
        "backbone": 39616,
        "turns": [1, 1],
        "groups": [["job-0"], [f"job-{i}" for i in range(1, count)]],
        "plans": dict.fromkeys(names, plan),
        "waste": {n: {"padded": 0.525, "taken": 0.1 * i} for i, n in enumerate(names)},
        "runs": [{**run, "bytes": None}, {**run, "bytes": 2**20}],
        "errors": {"time": [0.164, -0.066], "memory": [0.029]},
        "predicted round": 0.11,
        "measured round": 0.304,
        **more,
    }


def page(folder: Path, found: dict[str, Any]) -> str:
    (folder / "many.json").write_text(json.dumps(found))
    return report(folder).read_text()


def test_every_job_has_a_curve_of_a_colour_of_its_own(tmp_path: Path) -> None:
    html = page(tmp_path, told(CURVES + 3))
    plots = re.findall(r"<svg class=\"plot\".*?</svg>", html, re.S)
    assert [plot.count("<polyline") for plot in plots] == [CURVES, 3]
    for plot in plots:
        colours = re.findall(r"<polyline class=\"trace (s\d)\"", plot)
        assert len(set(colours)) == len(colours)
    assert f"Training loss, job-{CURVES} to job-{CURVES + 2}" in html


def test_steps_are_whole(tmp_path: Path) -> None:
    html = page(tmp_path, told(2))
    (plot,) = re.findall(r"<svg class=\"plot\".*?</svg>", html, re.S)
    ticks = re.findall(r"text-anchor=\"middle\">([\d.]+)</text>", plot)
    assert ticks == ["1", "2", "3", "4"]


def test_waste_sizes_and_errors_stand_in_it(tmp_path: Path) -> None:
    html = page(tmp_path, told(2, devices=2))
    for text in ("52.5 %", "20.0 %", "38.7 KiB", "3.0 MiB", "16.4 %", "−6.6 %", "2.9 %"):
        assert text in html
    assert "devices" in html
    assert "devices" not in page(tmp_path, told(2))


def test_what_failed_is_said_first_and_last(tmp_path: Path) -> None:
    found = told(2)
    found["jobs"][1] |= {"status": "failed", "failures": ["step 2: its data: <broken>"]}
    html = page(tmp_path, found)
    assert "1 of 2 jobs are done; failed: job-1." in html
    assert "job-1: step 2: its data: &lt;broken&gt;" in html


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text("{}")
    with pytest.raises(GraftError, match="cannot be read as a shared run"):
        report(tmp_path)
