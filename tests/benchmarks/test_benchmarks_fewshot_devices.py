"""The record of the same command on two devices, from made-up runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fewshot import devices
from benchmarks.fewshot.__main__ import main
from graftwork import GraftError
from graftwork_runs import environment, validate_record


def run(folder: Path, device: str, fold: int, dice: float, judged: bool = False) -> None:
    found = {"device": device, "fold": fold, "dice": dice, "nsd": 0.9, "judged": judged}
    found |= {"adapt_seconds": 60.0 if judged else None, "where": environment()}
    name = f"devices-{device}-f{fold}-{judged}.json"
    (folder / name).write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize(
    ("gaps", "word", "mean"),
    [
        ((0.01, -0.02), "seen", -0.005),
        ((0.05, -0.04), "partly", 0.005),
        ((-0.05, -0.06), "not seen at this scale", -0.055),
    ],
)
def test_pairs_are_compared(
    tmp_path: Path, gaps: tuple[float, ...], word: str, mean: float
) -> None:
    for fold, gap in enumerate(gaps):
        run(tmp_path, "gpu", fold, 0.8)
        run(tmp_path, "cpu", fold, 0.8 + gap)
    run(tmp_path, "cpu", 7, 0.1)  # has no partner
    other = json.loads((tmp_path / "devices-cpu-f0-False.json").read_text(encoding="utf-8"))
    other |= {"set": "gpu", "dice": 0.1}  # of no pair either: the search was another's
    (tmp_path / "devices-cpu-f0-set.json").write_text(json.dumps(other), encoding="utf-8")
    record = tmp_path / "record.json"
    assert main(["devices", "--out", str(tmp_path), "--record", str(record)]) == 0
    found = validate_record(record)
    [row] = found.find(case="all runs on both")
    assert row.value == pytest.approx(mean) and row.n == 2
    assert (row.lo, row.hi) == (pytest.approx(min(gaps)), pytest.approx(max(gaps)))
    assert (found.verdict or "").startswith(f"{word}: ")


def test_a_judged_run_is_another_pair_and_has_seconds(tmp_path: Path) -> None:
    for judged in (False, True):
        run(tmp_path, "cpu", 0, 0.7, judged)
        run(tmp_path, "gpu", 0, 0.8, judged)
    record = devices.collect(tmp_path, tmp_path / "record.json")
    assert record.find(case="all runs on both")[0].n == 2
    assert [r.value for r in record.find(metric="adapt")] == [60.0, 60.0]
    assert {r.case for r in record.find(metric="adapt")} == {"fold 0, with the verdict"}


def test_without_a_pair_there_is_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "cpu", 0, 0.7)
    with pytest.raises(GraftError, match="nothing was run on both"):
        devices.collect(tmp_path)
    assert main(["devices", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "--data" in capsys.readouterr().err
