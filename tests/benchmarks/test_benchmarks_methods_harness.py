"""Rates are chosen apart from the figures; intervals, records and the page say what the rows say."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from benchmarks.methods import beside, harness, page
from benchmarks.methods.harness import RATE, RECORDS, SWEEP, Experiment, compare, only, versus
from graftwork import GraftError
from graftwork.cards import cards
from graftwork_runs import Row, validate_record

MODULES = sorted(
    p.stem
    for p in Path(harness.__file__).parent.glob("*.py")
    if "EXPERIMENT = Experiment(" in p.read_text(encoding="utf8")
)


def experiment_of(module: str) -> Experiment:
    return importlib.import_module(f"benchmarks.methods.{module}").EXPERIMENT


# -- the arithmetic -----------------------------------------------------------------------------------


def test_the_bootstrap_holds_the_mean_and_repeats() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 10.0]
    low, high = harness.bootstrap(values)
    assert low < 3.2 < high and (low, high) == harness.bootstrap(values)
    assert harness.bootstrap([2.0] * 5) == (2.0, 2.0)
    # 16 times the data, a quarter of the width
    wide = harness.bootstrap(values * 16)
    assert (wide[1] - wide[0]) / (high - low) == pytest.approx(0.25, rel=0.1)


def test_comparisons_are_paired() -> None:
    base = [1.0, 10.0, 100.0]
    twice = versus("c", "v", "m", [2 * b for b in base], base)
    assert (twice.value, twice.lo, twice.hi, twice.n) == (2.0, 2.0, 2.0, 3)
    mixed = versus("c", "v", "m", [2.0, 10.0, 50.0], base)
    assert mixed.value == pytest.approx(1.0) and mixed.lo == 0.5 and mixed.hi == 2.0
    gap = versus("c", "v", "m", [2.0, 11.0, 101.0], base, as_ratio=False)
    assert (gap.value, gap.lo, gap.hi) == (1.0, 1.0, 1.0)
    lost = versus("c", "v", "m", [math.inf, 11.0, math.nan], base)
    assert lost.value is None and lost.note == "diverged in 2 of 3 seeds"


def test_a_summary_is_the_median_with_the_extremes() -> None:
    row = harness.summary("c", "v", "m", [5.0, 1.0, 2.0])
    assert (row.value, row.lo, row.hi, row.n) == (2.0, 1.0, 5.0, 3)
    assert harness.below(row, 5.1) and not harness.below(row, 5.0)
    assert harness.above(row, 0.9) and not harness.above(row, 1.0)
    assert harness.told(row) == "2 (1 to 5)"
    assert harness.summary("c", "v", "m", [1.0, math.nan]).note == "diverged in 1 of 2 seeds"


def recorded(
    best: float, seen: list[tuple[int, float]]
) -> Callable[[int, float], dict[str, float]]:
    """A trial whose error is least at the rate `best`, and infinite above ten times that."""

    def run(seed: int, rate: float) -> dict[str, float]:
        seen.append((seed, rate))
        off = abs(math.log(rate / best))
        return {"error": math.inf if rate > 10 * best else 1 + off, "other": float(seed)}

    return run


def test_rates_are_chosen_on_other_seeds_than_the_figures() -> None:
    seen: list[tuple[int, float]] = []
    arms = {"one": recorded(0.01, seen), "two": recorded(0.1, [])}
    rows = compare("c", arms, (0.001, 0.01, 1.0), [0, 1], "error", [("two", "one")], also=["other"])
    assert {s for s, _ in seen} == {*SWEEP, 0, 1}
    assert [x for x in seen if x[0] not in SWEEP] == [(0, 0.01), (1, 0.01)]
    assert only(rows, "c", "one", RATE).value == 0.01
    assert only(rows, "c", "one", "error").value == 1.0
    assert only(rows, "c", "one", "other").hi == 1.0
    ratio = only(rows, "c", "two", "error, ratio to one")
    assert ratio.value == pytest.approx(1 + math.log(10), rel=1e-3)
    fixed = compare("c", arms, (0.001, 0.01), [0], "error", [], fixed=0.001)
    assert [r.value for r in fixed if r.metric == RATE] == [0.001, 0.001]
    with pytest.raises(LookupError, match="0 rows"):
        only(rows, "c", "three", "error")


def test_a_rate_at_the_end_of_the_grid_is_told() -> None:
    rows = [Row(case="own", variant=v, metric=RATE, value=r) for v, r in (("a", 0.1), ("b", 1.0))]
    rows.append(Row(case="fixed rate", variant="c", metric=RATE, value=0.01))
    [remark] = harness.edges((0.01, 0.1, 1.0))(rows)
    assert "b (own)" in remark and "a (own)" not in remark and "c" not in remark.split(": ")[1]


# -- the command --------------------------------------------------------------------------------------


def made_up(measure: Any = None) -> Experiment:
    def rows(seeds: list[int], options: argparse.Namespace) -> list[Row]:
        return [harness.summary("case", "ours", "m", [float(options.steps + s) for s in seeds])]

    return Experiment(
        name="made_up",
        claim="It works.",
        model="a model",
        data="some data",
        measure=measure or rows,
        judge=lambda rows: f"seen: {rows[0].value:g}",
        shown=[("case", "ours", "m")],
        sizes={"steps": 7},
        files=lambda: {"file": "0" * 64},
    )


def test_the_command_writes_a_record_and_judges_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made_up.json"
    assert made_up().main(["--seeds", "6", "--steps", "3", "--out", str(out)]) == 0
    record = validate_record(out)
    assert record.command == "python -m benchmarks.methods.made_up --seeds 6 --steps 3"
    assert record.seeds == [0, 1, 2, 3, 4, 5] and record.verdict == "seen: 5.5"
    assert record.data == {"file": "0" * 64} and record.details["model"] == "a model"
    assert "case: ours: m: 5.5 (3 to 8)" in capsys.readouterr().out

    def never(*_: Any) -> list[Row]:
        raise AssertionError("nothing is measured")

    other = dataclasses.replace(
        made_up(never), judge=lambda rows: "partly: again", model="another", details={"more": 1}
    )
    assert other.main(["--retell", "--out", str(out)]) == 0
    again = validate_record(out)
    assert again.verdict == "partly: again" and again.details["model"] == "another"
    assert again.rows == record.rows and again.date == record.date and again.details["more"] == 1


# -- the page -----------------------------------------------------------------------------------------


def test_the_page_says_what_the_record_says(tmp_path: Path) -> None:
    made_up().main(["--seeds", "5", "--out", str(tmp_path / "made_up.json")])
    line = page.experiments(tmp_path).splitlines()[2]
    for part in ("`methods/made_up`", "It works.", "9 (7 to 11)", "**seen**: 9"):
        assert part in line
    [cell] = [c for c in line.split(" | ") if "9 (7 to 11)" in c]
    assert "a model; some data; 5 seeds" in cell  # no figure stands without what it was measured on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"details": {}}, "no model, data, shown"),
        ({"seeds": [0, 1, 2, 3]}, "4 seeds"),
        ({"rows": [Row(case="c", variant="ours", metric="m", value=1.0)]}, "not measured: 0 rows"),
    ],
)
def test_the_page_refuses_what_cannot_be_read(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "made_up.json"
    made_up().main(["--out", str(path)])
    validate_record(path).model_copy(update=change).write(path)
    with pytest.raises(GraftError, match=message):
        page.experiments(tmp_path)
    with pytest.raises(GraftError, match="no record"):
        page.experiments(tmp_path / "nowhere")


# -- what is committed --------------------------------------------------------------------------------


def test_every_experiment_has_a_record_and_a_line_on_the_page() -> None:
    names = {experiment_of(m).name for m in MODULES}
    assert names == set(MODULES) == {p.stem for p in RECORDS.glob("*.json")} and len(names) >= 10
    table = page.experiments()
    assert all(f"`methods/{name}`" in table for name in names)


def test_every_method_has_a_verdict_that_links_to_a_row(tmp_path: Path) -> None:
    table = page.experiments()
    for card in cards():
        link = re.fullmatch(r"\[(.+)\]\(experiments.md#(.+)\)", page.verdict_of(card["id"]))
        assert link is not None, card["id"]
        word, anchor = link.groups()
        [row] = [line for line in table.splitlines() if f'<a id="{anchor}"></a>' in line]
        assert f"**{word}**" in row
    assert page.verdict_of("new", tmp_path) == "none"
    made_up().main(["--seeds", "5", "--out", str(tmp_path / "new.json")])
    assert page.verdict_of("new", tmp_path) == "[seen](experiments.md#methods-made_up)"


def test_optimizers_and_selectors_have_verdicts_that_link_to_rows() -> None:
    table = page.experiments()
    for rows, made in (
        (beside.OPTIMIZERS, beside.optimizers()),
        (beside.SELECTORS, beside.selectors()),
    ):
        lines = made.splitlines()[2:]
        assert len(lines) == len(rows)
        for row, line in zip(rows, lines, strict=True):
            links = re.findall(r"\[([^]]+)\]\(experiments.md#([^)]+)\)", line)
            assert [anchor for _, anchor in links] == [f"methods-{n}" for n in row.experiments]
            for word, anchor in links:
                [told] = [text for text in table.splitlines() if f'<a id="{anchor}"></a>' in text]
                assert f"**{word}**" in told


def test_every_public_optimizer_and_selector_is_in_its_table() -> None:
    rooms = {"graftwork.optim": beside.OPTIMIZERS, "graftwork.selection": beside.SELECTORS}
    exported = {n: getattr(gw, n) for n in gw.__all__}
    of = {n: thing.__module__ for n, thing in exported.items() if not inspect.ismodule(thing)}
    for room, rows in rooms.items():
        public = {n for n, module in of.items() if module.startswith(room)}
        assert public == {name for row in rows for name in row.names}, room


@pytest.mark.parametrize("module", MODULES)
def test_a_committed_record_says_what_its_experiment_says(module: str) -> None:
    small = experiment_of(module)
    larger = [small.larger] if small.larger and small.larger.target.exists() else []
    for experiment in (small, *larger):
        record = validate_record(experiment.target)
        assert record.verdict == experiment.verdict(record.rows)
        words = experiment.words(record.rows)
        assert record.claim == words["claim"] and record.notes == words["notes"]
        assert words["details"].items() <= record.details.items()
        assert len(record.seeds) >= page.SEEDS and not set(record.seeds) & set(SWEEP)
