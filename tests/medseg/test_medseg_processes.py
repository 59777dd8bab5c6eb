"""`medseg fit` in two processes: one run folder, one adapter, one report with every case in it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import graftwork as gw
from graftwork_runs import validate_record


def test_fit_in_two_processes_over_a_sharded_base(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(cases=5)
    arguments = ["--data=graftwork_medseg.data.FolderData", f"--data.path={folder}"]
    arguments += ["--data.held_out=3", "--data.patches_per_epoch=4", "--data.batch_size=1"]
    arguments += ["--data.roi=[16,16,16]", "--run_dir=run"]
    trainer = {"max_epochs": 1, "check_val_every_n_epoch": 1, "accelerator": "cpu"}
    trainer |= {"devices": 2, "strategy": "fsdp2"}
    arguments += [f"--trainer.{name}={value}" for name, value in trainer.items()]
    done = subprocess.run(
        [sys.executable, "-m", "graftwork_medseg.app", "fit", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert len(said) == len(set(said)) and {"run folder", "adapter", "report"} <= set(said), (
        done.stdout
    )
    run = tmp_path / "run"
    assert sorted(p.name for p in run.parent.iterdir()) == ["data", "run"]
    record = validate_record(run / "record.json")
    assert "mean" in {row.case for row in record.rows}
    # three held-out cases on two processes: one is dealt out twice and counts once
    dice = {row.case: row.n for row in record.rows if row.metric == "dice"}
    assert dice == {"mean": 6, "shell": 3, "core": 3}
    curve = (run / "metrics.csv").read_text().splitlines()
    assert sum(",loss," in line for line in curve) == 2  # four patches, two at a time
    assert sum(",validate_dice," in line for line in curve) == 1
    passport = gw.inspect(run / "graft")
    assert passport["tensors"] and "float32" in json.dumps(passport["base"])
