"""The command and its workers: what is done is not done again, a failure does not stop the others, time is kept."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made_up import measured

from benchmarks.fewshot import pool
from benchmarks.fewshot.__main__ import main
from benchmarks.fewshot.jobs import Job, Results, grid_jobs, rate_jobs
from benchmarks.fewshot.work import Setting
from benchmarks.joblist import pool as processes
from benchmarks.joblist.pool import see_one_gpu
from graftwork import GraftError
from graftwork_medseg.fewshot.protocol import TASKS

JOBS = [j for j in grid_jobs("hippocampus") if j.k == 5 and j.fold == 0 and not j.budget]
Act = Callable[[Connection, Job, Results], None]


class AThread:
    """Stands in for a process."""

    def __init__(self, line: Connection) -> None:
        self.line = line

    def terminate(self) -> None:
        self.line.close()

    def join(self, timeout: float | None = None) -> None:
        pass

    def kill(self) -> None:
        pass


def deaf(line: Connection) -> None:
    """A worker that does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line.send("ready")
    time.sleep(100)


def test_a_worker_that_lets_the_signal_wait_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    worker = processes.start_process(deaf)
    assert worker.line.recv() == "ready"
    processes.end([worker])
    assert worker.process.exitcode == -signal.SIGKILL


def crew(monkeypatch: pytest.MonkeyPatch, act: Act) -> list[Job]:
    """Let threads be the workers, which `act` on each job; the jobs that were started."""
    started: list[Job] = []

    def start(setting: Setting, number: int) -> pool.Worker:
        mine, theirs = Pipe()

        def serve() -> None:
            try:
                while True:
                    job = theirs.recv()
                    started.append(job)
                    act(theirs, job, Results(setting.out))
            except (EOFError, OSError):
                pass

        threading.Thread(target=serve, daemon=True).start()
        return pool.Worker(AThread(mine), mine)

    monkeypatch.setattr(pool, "_start", start)
    return started


def finish(line: Connection, job: Job, results: Results) -> None:
    result = measured(job, lambda *_: 0.5)
    results.write(job, result)
    line.send(("done", result))


def run(folder: Path, said: list[str], jobs: list[Job] = JOBS, **more: Any) -> int:
    options = {"workers": 2, "deadline": None, "say": said.append, **more}
    return pool.run_all(jobs, Setting(".", str(folder), tiny=True), **options)


def test_every_job_is_run_once_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, said = crew(monkeypatch, finish), list[str]()
    assert run(tmp_path, said) == 0
    assert sorted(j.name for j in started) == sorted(j.name for j in JOBS)
    names = [j.name for j in started]
    assert names.index(next(n for n in names if n.endswith("full"))) < names.index(
        next(n for n in names if n.endswith("scratch"))
    )
    assert len(said) == len(JOBS) and "to go" in said[0] and f"[1/{len(JOBS)}]" in said[0]
    Results(tmp_path).path(JOBS[0]).unlink()
    assert run(tmp_path, said) == 0
    assert started[len(JOBS) :] == [JOBS[0]]


def test_a_failed_job_is_counted_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(line: Connection, job: Job, results: Results) -> None:
        if job.arm == "bias":
            line.send(("failed", "GraftError: case x: no label"))
        elif job.arm == "affine":
            line.close()  # the process was killed
            raise EOFError
        else:
            finish(line, job, results)

    crew(monkeypatch, act)
    said: list[str] = []
    assert run(tmp_path, said) == 2
    assert any("bias FAILED: GraftError: case x: no label" in line for line in said)
    assert any("affine FAILED: its process ended" in line for line in said)
    assert sum(Results(tmp_path).done(j) for j in JOBS) == len(JOBS) - 2
    assert said[-1] == f"2 of {len(JOBS)} jobs are left; the same command goes on"


def test_nothing_starts_that_would_end_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, said = crew(monkeypatch, finish), list[str]()
    assert run(tmp_path, said, deadline=time.monotonic() + 0.01) == 0
    assert started == [] and said == [
        f"{len(JOBS)} of {len(JOBS)} jobs are left; the same command goes on"
    ]


def test_a_job_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew(monkeypatch, lambda line, job, results: time.sleep(5) if job.arm == "head" else None)
    monkeypatch.setattr("benchmarks.joblist.pool.GRACE", 0.3)
    monkeypatch.setattr(pool.Clock, "estimate", lambda self, job: 0.1)
    said: list[str] = []
    begun = time.monotonic()
    assert run(tmp_path, said, deadline=begun + 0.5) == 0
    assert time.monotonic() - begun < 4
    assert any(line.startswith("out of time; given up: ") for line in said)


@pytest.fixture(name="quiet")
def fixture_quiet() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("quiet")
def test_a_worker_answers_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bench:
        def __init__(self, setting: Setting) -> None:
            self.setting = setting

        def run(self, job: Job) -> dict[str, Any]:
            if job.arm == "bias":
                raise GraftError("case x: no label")
            if job.arm == "affine":
                raise ValueError("odd")
            return measured(job, lambda *_: 0.5)

    monkeypatch.setattr(pool, "Bench", Bench)
    mine, theirs = Pipe()
    for arm in ("head", "bias", "affine"):
        mine.send(next(j for j in JOBS if j.arm == arm))
    thread = threading.Timer(1.0, mine.close)
    thread.start()
    answers = []
    reader = threading.Thread(target=lambda: answers.extend(mine.recv() for _ in range(3)))
    reader.start()
    pool._serve(theirs, Setting(".", "."), 0)
    reader.join()
    assert answers[0][0] == "done" and "scores" not in answers[0][1]
    assert answers[1] == ("failed", "GraftError: case x: no label")
    assert answers[2][1].startswith("ValueError: odd (") and "test_bench" in answers[2][1]


@pytest.mark.parametrize(
    ("count", "visible", "seen"),
    [(4, None, "1"), (2, "5,7", "7"), (1, "3", "3"), (0, None, None)],
)
def test_workers_take_the_gpus_by_turns(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None, seen: str | None
) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.setenv(name, visible or "")
    if visible is None:
        monkeypatch.delenv(name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    see_one_gpu(5)
    assert os.environ.get(name) == seen


# -- the command ------------------------------------------------------------------------------------


def a_site(root: Path) -> Path:
    """A small hippocampus set: as many cases as the task tests on, and ten to draw from."""
    folder, draw = root / "hippocampus", np.random.default_rng(0)
    entries = []
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for i in range(TASKS["hippocampus"].tests + 10):
        label = np.zeros((34, 40, 34), np.uint8)
        label[8:16, 10:30, 8:26], label[16:24, 10:30, 8:26] = 1, 2
        image = (50 * label + draw.normal(100, 5, label.shape)).astype(np.float32)
        for kind, data in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(data, np.eye(4)), folder / kind / f"c{i}.nii.gz")
        entries.append({"image": f"./imagesTr/c{i}.nii.gz", "label": f"./labelsTr/c{i}.nii.gz"})
    text = {
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "modality": {"0": "MR"},
        "training": entries,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(text))
    return root


def test_the_command_trains_and_scores_in_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, tar = a_site(tmp_path / "data"), tmp_path / "jobs", tmp_path / "jobs.tar.gz"
    words = [
        "run", "--data", str(data), "--out", str(out), "--stage", "rates", "--task", "hippocampus",
        "--jobs", "head-r0.03", "--device", "cpu", "--tiny", "--tar", str(tar),
    ]  # fmt: skip
    # the arms' sweep needs all the head's trials, of which the filter keeps one
    assert main(words) == 2
    assert "let the rates be swept first" in capsys.readouterr().err
    [job] = [j for j in rate_jobs("hippocampus", None) if j.rate == 3e-2]
    found = Results(out).read(job)
    assert found["status"] == "done" and found["trained"] == 18 and found["steps"] == 2
    assert len(found["scores"]) == 2  # cases of a rehearsal
    for case in found["scores"].values():
        assert set(case) == {"anterior", "posterior"} and 0 <= case["anterior"]["dice"] <= 1
    with tarfile.open(tar) as archive:
        assert archive.getnames() == [f"{job.name}.json"]


def test_the_plan_counts_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    (data / "hippocampus").mkdir(parents=True)
    (data / "hippocampus" / "dataset.json").write_text("{}")
    out = tmp_path / "jobs"
    job = JOBS[0]
    Results(out).write(job, measured(job, lambda *_: 0.5))
    words = ["--data", str(data), "--out", str(out), "--task", "hippocampus", "--workers", "4"]
    assert main(["plan", *words, "--stage", "grid"]) == 0
    total = len(grid_jobs("hippocampus"))
    shown = capsys.readouterr().out
    assert shown.startswith(f"grid hippocampus: {total} jobs, {total - 1} to do, about ")
    assert shown.endswith("min with 4\n")


def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "jobs")]
    assert main(["run", *words]) == 2
    assert "holds no hippocampus/dataset.json; write it with data_cards/prepare.py" in (
        capsys.readouterr().err
    )
    assert main(["run", *words, "--minutes", "-1"]) == 2
    assert capsys.readouterr().err == "error: --minutes -1.0 must be positive\n"
    assert main(["table", "--out", str(tmp_path / "jobs")]) == 2
    assert "no job file" in capsys.readouterr().err
    assert main(["timing", "--data", str(tmp_path), "--rounds", "1"]) == 2
    assert "--rounds at least 2" in capsys.readouterr().err


def test_a_stopped_run_packs_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_all", stop)
    (tmp_path / "hippocampus").mkdir()
    (tmp_path / "hippocampus" / "dataset.json").write_text("{}")
    out, tar = tmp_path / "jobs", tmp_path / "jobs.tar.gz"
    Results(out).write(JOBS[0], measured(JOBS[0], lambda *_: 0.5))
    words = ["--data", str(tmp_path), "--out", str(out), "--tar", str(tar)]
    assert main(["run", *words, "--task", "hippocampus"]) == 130
    with tarfile.open(tar) as archive:
        assert archive.getnames() == [f"{JOBS[0].name}.json"]
