"""Ten SIGKILLs at fresh random times, and the run ends as if there had been none."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from same import differences

from graftwork.lightning.checkpoint_io import load_checkpoint

SCRIPT = Path(__file__).with_name("resume_run.py")


@pytest.mark.timeout(600)
def test_ten_kills_leave_no_trace(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"kill times: seed {seed}")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(seed)],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    story = json.loads(done.stdout.splitlines()[-1])
    kills = story["kills"]
    print(f"{story['seconds']:.0f} s", *kills, sep="\n")

    # the story is what it claims to be
    assert len(kills) == 10 and all(k["killed"] for k in kills)
    kinds = [k["kind"] for k in kills]
    assert kinds.count("fsync") == kinds.count("replace") == 1
    assert all(k["parts"] == 1 for k in kills if k["kind"] in ("fsync", "replace"))
    assert sum(k["kind"] == "middle" and 4 <= k["to"][1] <= 8 for k in kills) == 2
    assert sum(k["from"] != [0, 0] for k in kills) >= 3, "hardly any start was a resume"

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (whole / "metrics.csv").read_text() == (killed / "metrics.csv").read_text()
    assert len((whole / "metrics.csv").read_text().splitlines()) > 190
    state = load_checkpoint(killed / "final.safetensors")
    assert differences(load_checkpoint(whole / "final.safetensors"), state) == []
    assert {"weights", "buffers", "optimizer", "schedule"} == set(state)
    assert all(k["exp_avg"].abs().max() > 0 for k in state["optimizer"]["state"].values())
    assert not list(killed.glob(".*.part")), "a killed writer's file was not swept away"
