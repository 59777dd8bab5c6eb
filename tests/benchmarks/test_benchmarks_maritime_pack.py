"""The list of the maritime jobs for one card: order, estimates, what waits for what, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.maritime import headline
from benchmarks.maritime.pack import packed
from benchmarks.maritime.pack.__main__ import main
from benchmarks.maritime.pack.jobs import (
    CONSTRAINED,
    CONTAMINATION,
    HEADLINE,
    LIVE,
    LIVE_BOTH,
    LIVE_GRAFT,
    PARTS,
    SLOTS,
    TRIALS,
    WRITING,
    Clock,
    Job,
    Results,
    listed,
)  # fmt: skip
from benchmarks.maritime.pack.lessons import SPLITS, STAGES, prepare
from benchmarks.maritime.pack.work import Bench, Setting
from graftwork.errors import GraftError

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of itself


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    data = tmp_path_factory.mktemp("data")
    assert headline.main(["prepare", "--data", str(data), "--tiny"]) == 0
    for stage in STAGES.values():
        prepare(stage, data, tiny=True)
    out = str(tmp_path_factory.mktemp("out"))
    return Bench(Setting(str(data), str(data / "none"), "tiny", out, tiny=True))


def test_lessons_do_not_depend_on_the_processes(bench: Bench, tmp_path: Path) -> None:
    prepare(STAGES[LIVE_BOTH], tmp_path, workers=2, tiny=True)
    for split in SPLITS:
        file = f"live-both/{split}.jsonl"
        assert (tmp_path / file).read_bytes() == (Path(bench.setting.data) / file).read_bytes()


def leave(out: Path, name: str, **known: float) -> None:
    """A graft as a training leaves it."""
    grafts = out / HEADLINE / "grafts"
    (grafts / name).mkdir(parents=True)
    (grafts / name / "adapter.safetensors").write_bytes(bytes(1000))
    (grafts / f"{name}.json").write_text(json.dumps(known))


def finish(out: Path, name: str, **known: float) -> None:
    """A job's result."""
    (out / HEADLINE).mkdir(parents=True, exist_ok=True)
    (out / HEADLINE / f"{name}.json").write_text(json.dumps(known))


@pytest.mark.parametrize("tiny", [False, True])
def test_the_list_has_every_job_once_and_what_is_waited_for_comes_first(tiny: bool) -> None:
    jobs = listed(tiny)
    assert len({job.name for job in jobs}) == len(jobs) == len(set(jobs))
    assert [job.key for job in jobs[:2]] == ["LoFT-0", "GOAT-0"]
    assert {job.part for job in jobs} == set(PARTS)
    free = {j.name for j in headline.listed()}
    assert free <= {job.key for job in jobs if job.part == HEADLINE}
    for at, job in enumerate(jobs):
        if job.waits_for is not None:
            assert job.waits_for in jobs[:at]
    second = jobs.index(Job(HEADLINE, "LoRA-1"))
    assert second < jobs.index(Job(HEADLINE, "LoRA-1-constrained"))
    assert listed(tiny, [SLOTS]) == [job for job in jobs if job.part == SLOTS]
    with pytest.raises(GraftError, match="--parts 'x'"):
        listed(tiny, ["x"])


def test_a_graft_that_was_not_kept_is_never_constrained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(tmp_path)
    finish(tmp_path, "LoRA-0", seconds=3.0)
    held = Job(HEADLINE, "LoRA-0-constrained")
    assert results.done(Job(HEADLINE, "LoRA-0")) and not results.ready(held)
    assert not results.ready(Job(LIVE, "seventh-0of8")) and results.ready(Job(LIVE, LIVE_GRAFT))
    assert not results.ready(Job(LIVE, LIVE_BOTH))
    assert Job(LIVE, "coast-fifth-0of8").waits_for == Job(LIVE, LIVE_BOTH)
    assert results.ready(Job(HEADLINE, "frozen-base-0-constrained"))
    assert main(["plan", "--out", str(tmp_path), "--jobs", "headline-LoRA-*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [never] = [line for line in lines if "LoRA-0-constrained" in line]
    [later] = [line for line in lines if "LoRA-1-constrained" in line]
    assert "never" in never and "when what it needs is there" in later
    assert (
        not any(line.endswith("LoRA-0") for line in lines) and "1 of 6 jobs are done" in lines[-1]
    )
    leave(tmp_path, "LoRA-0")
    assert results.ready(held)


def test_estimates_are_of_what_is_there_and_learn_from_the_run(tmp_path: Path) -> None:
    finish(tmp_path, "LoRA-0", **{"seconds": 300.0, "training seconds": 200.0})
    leave(tmp_path, "GOAT-0", **{"training seconds": 435.0})
    (tmp_path / HEADLINE / "rate-LoRA.json").write_text("{}")
    jobs = listed()
    clock = Clock(Results(tmp_path), jobs)

    def seconds(key: str) -> float:
        return clock.estimate(Job(HEADLINE, key))

    assert seconds("LoRA-1") == pytest.approx(100 + 200 / TRIALS)  # the rate is known
    assert seconds("LoRA-1-constrained") == pytest.approx(CONSTRAINED * 100)
    assert seconds("GOAT-0") == WRITING  # its graft is there
    assert seconds("GOAT-1") == pytest.approx(435 + WRITING)
    leave(tmp_path, "GOAT-1", **{"training seconds": 435.0})  # this run's own
    clock.note(Job(HEADLINE, "GOAT-1"), 2 * (435 + WRITING))
    assert seconds("LoRA-1") == pytest.approx(2 * (100 + 200 / TRIALS))
    assert clock.estimate(Job(SLOTS, "LoRA-0")) < 2 * clock.estimate(Job(SLOTS, "LoRA-1"))
    finish(tmp_path, "GOAT-0", **{"seconds": 90.0, "training seconds": 435.0})  # written later
    again = Clock(Results(tmp_path), jobs)
    assert again.estimate(Job(HEADLINE, "GOAT-0-constrained")) == pytest.approx(CONSTRAINED * 90)
    (tmp_path / HEADLINE / "LoFT-0.json").write_text("{")
    with pytest.raises(GraftError, match=r"LoFT-0\.json: is damaged"):
        Clock(Results(tmp_path), jobs)


def test_parts_hold_all_results_and_the_new_grafts_that_have_room(tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    leave(out, "DiaBlo-0")
    before = packed.grafts(out)
    finish(out, "DiaBlo-0", seconds=1.0)
    leave(out, "LoFT-0")
    leave(out, "GOAT-0")
    (out / HEADLINE / "grafts" / "GOAT-0" / "adapter.safetensors").write_bytes(bytes(3 * 2**20))
    (out / "failed").mkdir()
    (out / "failed" / "slots-LoRA-0.json").write_text('{"error": "why"}')
    packed.pack(out, before, tmp_path / "parts", 1, 2, said.append)
    assert said[0] == "no room for headline/grafts/GOAT-0" and "part-000" in said[1]
    packed.join(tmp_path / "parts", tmp_path / "there", said.append)
    there = {
        p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*.*")
    }
    assert there == {
        "headline/DiaBlo-0.json", "headline/grafts/DiaBlo-0.json", "headline/grafts/GOAT-0.json",
        "headline/grafts/LoFT-0.json", "headline/grafts/LoFT-0/adapter.safetensors", "failed/slots-LoRA-0.json",
    }  # fmt: skip
    part = tmp_path / "parts" / "part-000"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(GraftError, match="damaged: part-000"):
        packed.join(tmp_path / "parts", tmp_path / "there", said.append)


def test_jobs_of_every_part_leave_their_benchmarks_own_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = Path(bench.setting.out)
    (out / LIVE / "run" / "tensorboard").mkdir(parents=True)  # as a fit that was killed early
    for job in (
        Job(HEADLINE, "LoRA-0"), Job(HEADLINE, "LoRA-0-constrained"), Job(CONTAMINATION, "base-s0"),
        Job(CONTAMINATION, "2-e2-c3-s0"), Job(LIVE, LIVE_GRAFT), Job(LIVE, LIVE_BOTH),
        Job(LIVE, "seventh-1of8"), Job(LIVE, "eighth-7of8"), Job(LIVE, "coast-fifth-1of8"),
    ):  # fmt: skip
        assert bench.results.ready(job)
        assert bench.run(job)["wall"] > 0 and bench.results.done(job)
    held = json.loads((out / HEADLINE / "LoRA-0-constrained.json").read_text())
    assert held["constrained"] is True and held["trained"] > 0
    assert "result" in json.loads((out / CONTAMINATION / "2-e2-c3-s0.json").read_text())
    spoken = (out / LIVE / "seventh-1of8.jsonl").read_text().splitlines()
    variants = {json.loads(line)["variant"] for line in spoken}
    assert variants == {"tiny, graft, seventh wordings"}
    file = out / LIVE / "seventh-1of8.jsonl"
    first = {k: v for k, v in json.loads(spoken[0]).items() if k in ("variant", "scenario")}
    file.write_text("\n".join([json.dumps({**first, "error": "once"}), *spoken]) + "\n")
    bench.run(Job(LIVE, "seventh-1of8"))  # it was held again since
    lost = json.dumps({**first, "scenario": "another", "error": "OutOfMemoryError"})
    file.write_text("\n".join([lost, *spoken]) + "\n")
    with pytest.raises(GraftError, match="1 exchanges failed: OutOfMemoryError"):
        bench.run(Job(LIVE, "seventh-1of8"))
    monkeypatch.setattr(headline.Work, "run", lambda *a: 1 / 0)
    with pytest.raises(GraftError, match="division by zero"):
        bench.run(Job(HEADLINE, "LoFT-2"))
    assert "division by zero" in bench.results.note(Job(HEADLINE, "LoFT-2")).read_text()
    assert not bench.results.done(Job(HEADLINE, "LoFT-2"))


def test_bad_input_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--data", str(tmp_path), "--slots", str(tmp_path), "--base", "tiny"]
    run += ["--out", str(tmp_path / "o")]
    assert main(run) == 2 and "train.jsonl: no such file" in capsys.readouterr().err
    assert main([*run, "--workers", "0"]) == 2 and "--workers 0" in capsys.readouterr().err
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert main([*run, "--parts-to", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*run, "--jobs", "nothing"]) == 2 and "nothing" in capsys.readouterr().err
