"""`graftwork train-many --devices 2`: every job is what it is in one process on the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from graftwork.cli import main
from tests.benchmarks.forked_ranks import LIBRARIES
from tests.tenants.many_ranks import JOBS, write
from tests.warm import Pool

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.tenants.many_ranks"]


def started(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, warm: Pool) -> Path:
    """What two processes left."""
    made = tmp_path_factory.mktemp("many")
    done = warm(*LIBRARIES).run([*COMMAND, str(made)], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return made


def codes(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text())
    return found


def why(folder: Path, name: str) -> str:
    """What a run's jobs failed of, and the end of the first process's errors."""
    failures = [(j["name"], j["status"], j["failures"]) for j in told(folder / name)["jobs"]]
    return f"{failures}\n{(folder / '0.err').read_text()[-3000:]}"


def graft(folder: Path, job: str) -> dict[str, Tensor]:
    (file,) = (folder / job / "graft").glob("*.safetensors")
    return load_file(file)


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "many.json").read_text())
    return found


def assert_same(mine: Path, theirs: Path) -> None:
    for job in JOBS:
        one = graft(theirs, job)
        for key, value in graft(mine, job).items():
            # Llama's norms round to float32 whatever the base's dtype; in `test_tenants_ranks` nothing rounds
            torch.testing.assert_close(value, one[key], rtol=1e-7, atol=1e-8)
    curves = [[v for j in told(f)["jobs"] for _, v in j["curve"]] for f in (mine, theirs)]
    torch.testing.assert_close(*map(torch.tensor, curves), rtol=1e-7, atol=0)
    for ours, their in zip(told(mine)["jobs"], told(theirs)["jobs"], strict=True):
        pairs = [job["validation"]["val_loss"] for job in (ours, their)]
        torch.testing.assert_close(*map(torch.tensor, pairs), rtol=1e-7, atol=0)
        assert [s for s, _ in pairs[0]] == [2, their["steps"]]


def test_two_processes_train_what_one_trains_on_the_whole_batch(folder: Path) -> None:
    assert codes(folder, 0)["one"] == 0, why(folder, "one")
    assert [codes(folder, rank)["two"] for rank in (0, 1)] == [0, 0]
    assert_same(folder / "two", folder / "one")
    assert told(folder / "two")["devices"] == 2
    assert told(folder / "one")["devices"] == 1
    for job in told(folder / "two")["jobs"]:
        same = next(j for j in told(folder / "one")["jobs"] if j["name"] == job["name"])
        assert job["rows"] == same["rows"]
    assert (folder / "two" / "report.html").exists()


def test_ctrl_c_in_one_ends_all_and_all_go_on(folder: Path) -> None:
    found = [codes(folder, rank) for rank in (0, 1)]
    assert [f["stopped"] for f in found] == [130, 130]
    assert found[0]["steps"] == [2, 1, 2]  # in the round after the one in which it was pressed
    assert [f["resumed"] for f in found] == [0, 0]
    assert_same(folder / "parts", folder / "one")


def test_another_number_of_processes_goes_on_with_the_same_whole_batch(folder: Path) -> None:
    assert codes(folder, 0)["in one"] == 0
    assert_same(folder / "in-one", folder / "one")
    assert [codes(folder, rank)["other batch"] for rank in (0, 1)] == [2, 2]
    said = (folder / "1.err").read_text()
    assert "batch_size 4, the loader has 6" in said


def test_the_command_starts_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write("jobs.yaml", 2, only=("short",), run_dir="two")
    done = started("train-many", file, "--devices", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("run folder: two") == 1  # the first one speaks alone
    (job,) = told(tmp_path / "two")["jobs"]
    assert (job["status"], job["step"], told(tmp_path / "two")["devices"]) == ("done", 4, 2)
    # a second time: refused before anybody is started
    assert main(["train-many", file, "--devices", "2"]) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "text"), [("0", "devices must be 1 or more"), ("2", "from a command line alone")]
)
def test_devices_are_checked(
    devices: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write("jobs.yaml", 2)
    assert main(["train-many", file, "--devices", devices]) == 2
    assert text in capsys.readouterr().err
