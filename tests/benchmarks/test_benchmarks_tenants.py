"""The tenants' benchmark in small: its rows, its record, going on after an interruption."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from benchmarks.speed.llama import decoder
from benchmarks.speed.measure import Case, Turns
from benchmarks.tenants import inference, isolation, training
from benchmarks.tenants.__main__ import command_of, judge, main, measured, parsed
from graftwork.tenants import Recordings
from graftwork_runs import Row, validate_record
from tests.recording.fake_graphs import Fake

TINY = ["--tiny", "--device", "cpu", "--dtype", "float32", "--rounds", "2", "--backend", "none"]


@pytest.mark.filterwarnings("ignore")  # peft and transformers warn as they load
def test_every_part_runs_in_small_and_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no room")

    out = tmp_path / "engine.json"
    with monkeypatch.context() as patched:
        patched.setattr(training, "peft_in_turns", broken)
        assert main([*TINY, "--out", str(out)]) == 0
    record = validate_record(out)
    done = measured(out)
    for tasks in (8, 2):
        case = f"training: {tasks} tasks of 1 x 16"
        assert (case, training.OURS) in done and (case, training.TURNS) in done
        assert (case, training.PEFT) not in done
        assert any("no room" in (r.note or "") for r in record.rows if r.variant == training.PEFT)
    assert ("training: 8 tasks of 1 x 16", training.UNEQUAL) in done
    assert ("training: 2 tasks of 1 x 16", training.UNEQUAL) not in done
    figures = {(r.case, r.variant, r.metric): r.value for r in record.rows}
    assert (
        figures[
            "inference: 20 adapters, 20 batches of 8", "shelf, random adapters", "compiled anew"
        ]
        == 0
    )
    assert figures["isolation: 3 steps, float64", "bits", "tensors changed by a NaN"] == 0
    for name in isolation.TASKS:
        distance = figures["isolation: 3 steps, float64", name, "relative distance"]
        assert distance is not None and distance < 1e-10
    assert figures["inference: decoding, 8 rows", inference.SHELF.format(8), "ratio to one adapter"]

    kept = {k: v for k, v in figures.items() if v is not None}
    assert main([*TINY, "--parts", "training", "--out", str(out)]) == 0
    after = {(r.case, r.variant, r.metric): r.value for r in validate_record(out).rows}
    assert ("training: 8 tasks of 1 x 16", training.PEFT) in measured(out)
    same = [k for k, v in kept.items() if after.get(k) == v or k[1] == "floor"]
    assert len(same) == len(kept)


@pytest.mark.filterwarnings("ignore")
def test_recorded_rows_are_chosen_replayed_and_refused_where_a_pass_ran_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "engine.json"
    chosen = ["--parts", "training", "--only", "*recorded", "--out", str(out)]
    assert main([*TINY, *chosen]) == 0
    rows = validate_record(out).rows
    names = {training.RECORDED, *(n for n in training.EXTRA if n.endswith(training.REPLAYED))}
    failed = [r for r in rows if r.variant in names]
    assert {r.variant for r in failed} == names and not any(r.value for r in failed)
    assert all("need a GPU" in (r.note or "") for r in failed)

    monkeypatch.setattr(training, "recordings", lambda: Recordings(tell=print, machine=Fake))
    assert main([*TINY, *chosen]) == 0
    found = {(r.case, r.variant, r.metric): r.value for r in validate_record(out).rows}
    case = "training: 8 tasks of 1 x 16"
    assert all((found[case, name, "ratio to floor"] or 0) > 0 for name in names)
    assert found[case, training.RECORDED, training.HELD] == 0
    assert {n for _, n, _ in found} == {*names, "floor"}
    with pytest.raises(SystemExit):
        main([*TINY, "--parts", "training", "--only", "nothing"])


def test_what_does_not_fit_beside_the_floor_is_measured_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, cases = training.measure, []

    def small(case: Case, turns: Turns) -> list[Row]:
        cases.append([*case.variants])
        if len(case.variants) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(case, turns)

    monkeypatch.setattr(training, "measure", small)
    options = parsed([*TINY, "--parts", "training"])
    base = functools.cache(lambda: decoder(options, torch.float32))
    rows = training.figures(base, 2, training.OURS, options)
    assert cases == [["floor", training.OURS], ["floor"], [training.OURS]]
    figures = {(r.variant, r.metric): r for r in rows}
    ratio = figures[training.OURS, "ratio to floor"]
    step, floor = figures[training.OURS, "step"].value, figures["floor", "step"].value
    assert step and floor and ratio.value == pytest.approx(step / floor, rel=1e-4)
    assert "not in turns" in (ratio.note or "")


def test_a_verdict_names_what_holds_and_what_was_not_measured() -> None:
    def row(value: float) -> Row:
        case = "training: 8 tasks of 1 x 512"
        return Row(case=case, variant=training.OURS, metric="ratio to floor", value=value)

    assert judge([]).startswith("not testable here")
    assert judge([row(1.4)]).startswith("partly: 1 of 2 limits hold")
    assert judge([row(1.6)]).startswith("not seen at this scale: 0 of 2")


def test_the_command_in_a_record_names_no_file() -> None:
    said = command_of(["--parts", "batch", "--out", "somewhere.json", "--minutes", "3", "--again"])
    assert said == "python -m benchmarks.tenants --parts batch"
