"""The benchmark of waiting: whose seconds it takes, what it refuses, and how figures are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import import_cost as cost
from graftwork_runs import Row


def row(case: str, variant: str, value: float) -> Row:
    return Row(case=case, variant=variant, metric="wait", value=value)


def test_a_figure_over_its_limit_is_named_and_another_checkout_is_not_judged() -> None:
    rows = [
        row("`graftwork methods`", "graftwork", 0.2),
        row("`graftwork methods`", cost.BESIDE, 9.0),
        row("`maritime scenario --exercise`", "graftwork", 9.0),
        row(cost.STEP_CASE, "graftwork", 5.0),
        row(cost.STEP_CASE, "peft", 6.0),
    ]
    assert cost.verdict(rows).startswith("seen")
    rows.append(row("`graftwork inspect`", "graftwork", 0.4))
    rows.append(row("`medseg --help`", "graftwork", 1.5))
    assert cost.verdict(rows) == (
        "partly: `graftwork inspect` took 0.4 s, promised 0.3 s; `medseg --help` took 1.5 s, promised 1 s."
    )
    rows[3] = row(cost.STEP_CASE, "graftwork", 7.0)
    assert "a fit of one step took 7 s, promised 6 s" in cost.verdict(rows)


def test_a_command_is_timed_to_its_end_and_must_succeed() -> None:
    assert cost.whole(cost.door("graftwork --version")) > 0
    with pytest.raises(RuntimeError, match="no verb 'fti'"):
        cost.whole(cost.door("medseg fti"))
    with pytest.raises(RuntimeError, match="a snippet failed"):
        cost.inner("1 / 0")
    assert cost.inner("print(2.5)") == 2.5


def test_a_first_line_that_is_an_error_is_refused() -> None:
    assert cost.first_line(["-c", "print('begun', flush=True); input()"]) >= 0
    with pytest.raises(RuntimeError, match="began with"):
        cost.first_line(cost.door("medseg fti"))


def test_another_checkout_runs_its_own_code(tmp_path: Path) -> None:
    package = tmp_path / "shared" / "src" / "graftwork"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("SECONDS = 7.5\n")
    assert cost.inner("import graftwork; print(graftwork.SECONDS)", tmp_path) == 7.5
    known = cost.measurements("adapter", tmp_path)
    both = cost.measurements("adapter", tmp_path, tmp_path)
    assert {v for _, v in known} == {"graftwork", "peft"}
    assert {v for _, v in both} == {"graftwork", "peft", cost.BESIDE}
