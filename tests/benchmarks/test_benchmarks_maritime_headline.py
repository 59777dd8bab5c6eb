"""The headline benchmark rehearsed in seconds: jobs go on, a failing one loses no other, the table judges all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.maritime import headline, headline_table
from benchmarks.maritime.headline import (
    ARMS,
    FEW_SHOT,
    Job,
    Size,
    Work,
    again,
    listed,
    main,
    run,
    share,
)
from benchmarks.trees.arms import ARMS as METHODS
from graftwork.errors import GraftError
from graftwork_runs import validate_record


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    assert main(["prepare", "--data", str(folder), "--tiny"]) == 0
    return folder


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(data, "tiny", tmp_path_factory.mktemp("out"), "cpu", Size(1, 2, 1, 4, 2, 2))


def test_the_parts_have_every_job_once() -> None:
    parts = [job for n in range(4) for job in share(listed(), f"{n}/4")]
    assert sorted(parts, key=str) == sorted(listed(), key=str)
    assert len({job.name for job in listed()}) == len(ARMS) * 3
    assert [job.seed for job in listed()[: len(ARMS)]] == [0] * len(ARMS)
    for bad in ("4/4", "x", "1"):
        with pytest.raises(GraftError, match="--part"):
            list(share(listed(), bad))


def test_splits_are_of_other_scenarios_and_hold_every_category(data: Path) -> None:
    texts = {}
    for split in headline.COUNTS:
        found = headline.pairs(data / f"{split}.jsonl")
        assert len({s.category for _, s in found}) == 10
        texts[split] = {s.to_json() for _, s in found}
    assert not texts["train"] & texts["test"] and not texts["val"] & texts["test"]


def test_a_failing_job_loses_no_other_and_a_finished_one_is_not_repeated(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [Job("no such arm", 0), Job(FEW_SHOT, 0), Job("LoRA", 0)]
    assert run(work, jobs, None) == 1
    assert "no such arm" in (work.out / "no-such-arm-0.error.txt").read_text()
    lora = json.loads((work.out / "LoRA-0.json").read_text())
    assert lora["trained"] > 0 and lora["rate"] in METHODS["LoRA"].rates
    before = (work.out / "LoRA-0.jsonl").read_bytes()
    (work.out / "LoRA-0.json").unlink()  # as if killed while it wrote
    (work.out / "LoRA-0.jsonl").write_bytes(before[: len(before) // 2])
    monkeypatch.setattr(work, "_fit", lambda *a: pytest.fail("trained again"))
    assert run(work, jobs[1:], None) == 0
    assert (work.out / "LoRA-0.jsonl").read_bytes() == before
    capsys.readouterr()
    assert run(work, [Job("LoFT", 2)], 0.0) == 0
    assert "no time left" in capsys.readouterr().out and not (work.out / "LoFT-2.json").exists()


def test_grafts_that_are_there_write_again_under_the_constraint(
    work: Work, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # fmt: skip
    args = [
        "run",
        "--data",
        str(data),
        "--base",
        "tiny",
        "--device",
        "cpu",
        "--tiny",
        "--constrained",
    ]
    assert main([*args, "--out", str(tmp_path)]) == 2
    assert "holds no graft" in capsys.readouterr().err
    assert [j.name for j in again(work.out)] == [
        "LoRA-0-constrained", *(f"frozen-base-{s}-constrained" for s in headline.SEEDS),
    ]  # fmt: skip
    (work.out / "grafts" / "DiaBlo-0").mkdir()
    (work.out / "grafts" / "DiaBlo-0.json").write_text("{}")  # without its tensors
    assert "DiaBlo-0-constrained" not in [j.name for j in again(work.out)]
    monkeypatch.setattr(work, "_fit", lambda *a: pytest.fail("trained again"))
    assert run(work, again(work.out)[:1], None) == 0
    known = json.loads((work.out / "LoRA-0-constrained.json").read_text())
    assert known["constrained"] is True and known["trained"] > 0
    for line in (work.out / "LoRA-0-constrained.jsonl").read_text().splitlines():
        assert json.loads(line)["provenance"]["constrained"] is True
    assert "constrained" not in (work.out / "LoRA-0.json").read_text().replace(
        '"constrained": false', ""
    )


def test_the_few_shot_prompt_holds_examples_of_the_category(work: Work) -> None:
    scenario = work.test[0][1]
    same = [p for p in work.train if p[1].category == scenario.category]
    work.train = same + same  # the rehearsal has two of each
    asked = work.few_shot(scenario)
    assert asked.count("Dialogue:") == headline.SHOTS + 1 and asked.endswith("Dialogue:\n")
    assert asked == work.few_shot(scenario)
    assert asked.count(f"category: {scenario.category}") == headline.SHOTS + 1


def test_the_table_judges_what_is_there_and_says_what_is_not(
    work: Work, data: Path, tmp_path: Path
) -> None:
    (work.out / "GOAT-1.error.txt").write_text("Traceback\nGraftError: why\n")
    target = tmp_path / "record.json"
    assert main(["table", "--data", str(data), "--out", str(work.out), "--record", str(target)]) == 0  # fmt: skip
    record = validate_record(target)
    [goat] = record.find(variant="GOAT", metric="accepted")
    assert goat.value is None and goat.note == "GraftError: why"
    [lora] = record.find(variant="LoRA", metric="format")
    assert lora.value is not None and 0 <= lora.value < 1 and lora.n == 1
    [held] = record.find(variant=f"LoRA{headline_table.CONSTRAINED}", metric="stricter")
    assert held.value is not None and held.n == 1
    [refused] = record.find(metric="tokens refused a dialogue")
    assert refused.variant == held.variant and refused.n == 1
    [composer] = record.find(variant=headline_table.COMPOSER, metric="accepted")
    assert composer.value is not None and composer.value > 0.5
    assert record.verdict and record.verdict.startswith("not seen at this scale")
    again = headline_table.write(data, tmp_path / "elsewhere", target)
    assert all(r in record.rows or r.value is None for r in again.rows)
    assert again.details == record.details and again.verdict == record.verdict
    rows = [r.model_copy(update={"value": 0.5}) if r == composer else r for r in record.rows]
    record.model_copy(update={"rows": rows}).write(target)
    with pytest.raises(GraftError, match=r"LoRA-0.* judged by other filters"):
        headline_table.write(data, tmp_path / "elsewhere", target)


def test_bad_input_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["run", "--data", str(tmp_path), "--base", "tiny", "--out", str(tmp_path / "o")]
    assert main(args) == 2
    assert "train.jsonl" in capsys.readouterr().err
