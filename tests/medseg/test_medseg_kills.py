"""A stopped fit, adapt and predict each go on to the same result, after Ctrl-C and after SIGKILL."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

import graftwork as gw
from graftwork_runs import validate_record
from tests.medseg.conftest import msd_folder, write_nifti
from tests.warm import Pool

SCRIPT = Path(__file__).with_name("killed_runs.py")
LABELS = {"0": "background", "1": "GM", "2": "WM", "3": "lesion"}


def story(warm: Pool, verb: str, data: Path, target: Path) -> list[dict[str, Any]]:
    """What `killed_runs.py` did: one entry per child, the undisturbed one first."""
    seed = secrets.randbits(32)
    print(f"kill times: seed {seed}")
    command = [sys.executable, str(SCRIPT), verb, str(data), str(target), str(seed)]
    done = warm("graftwork_medseg.cli").run(command)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    for one in found:
        print({**one, "passed": len(one["passed"])})
        ended = {0: 0, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[one["signal"]]
        logs = "\n".join(f.read_text()[-2000:] for f in target.glob("*/log.txt"))
        assert one["code"] == ended, logs
    return found


def steps(one: dict[str, Any], place: str = "step") -> int:
    return int(one["passed"].count(place))


def same_grafts(whole: Path, killed: Path) -> None:
    [file] = (whole / "graft").glob("*.safetensors")
    one, other = load_file(file), load_file(killed / "graft" / file.name)
    assert one.keys() == other.keys() and len(one) > 10
    for name, tensor in one.items():
        assert tensor.numpy().tobytes() == other[name].numpy().tobytes(), name
    assert (whole / "metrics.csv").read_text() == (killed / "metrics.csv").read_text()
    # Nothing is lost, and no killed writer's file is left; tensorboard has a file of each start.
    names = [{str(p.relative_to(run)) for p in run.rglob("*")} for run in (whole, killed)]
    assert not [n for n in names[0] ^ names[1] if not n.startswith("tensorboard")]


@pytest.mark.timeout(300)
def test_a_stopped_fit_goes_on_to_the_same_graft(tmp_path: Path, warm: Pool) -> None:
    data = msd_folder(tmp_path / "data", labels=LABELS)
    whole, *killed = story(warm, "fit", data, tmp_path)
    assert [one["resumed"] for one in killed] == [False, True, True, True]
    assert steps(killed[-1]) < steps(whole), "it began anew"
    same_grafts(tmp_path / "whole" / "run", tmp_path / "killed" / "run")


@pytest.mark.timeout(300)
def test_a_stopped_adapt_goes_on_to_the_same_graft_and_verdict(tmp_path: Path, warm: Pool) -> None:
    data = msd_folder(tmp_path / "data", labels=LABELS)
    whole, *killed = story(warm, "adapt", data, tmp_path)
    # It was stopped in the training, in the scoring, and in the trainings that leave a case out.
    assert steps(whole) and steps(killed[1]) < steps(whole)
    assert not steps(killed[-1]) and 0 < steps(killed[-1], "fold") < steps(whole, "fold")
    one, other = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    same_grafts(one, other)
    scores = [json.loads((run / "judge.json").read_text()) for run in (one, other)]
    assert scores[0] == scores[1] and scores[0].keys() == {"case0", "case1", "case2"}
    verdicts = [gw.inspect(run / "graft")["metrics"]["verdict"] for run in (one, other)]
    assert verdicts[0] == verdicts[1] and verdicts[0]["n"] == 3
    rows = [validate_record(run / "record.json").rows for run in (one, other)]
    assert rows[0] == rows[1]


@pytest.mark.timeout(300)
def test_a_stopped_predict_goes_on_to_the_same_masks_and_statistics(
    tmp_path: Path, warm: Pool
) -> None:
    shape = (30, 26, 22)
    for n in range(4):
        voxels = np.random.default_rng(n).normal(size=shape).astype(np.float32)
        write_nifti(tmp_path / "in" / f"case{n}.nii.gz", voxels)
    whole, *killed = story(warm, "predict", tmp_path / "in", tmp_path)
    assert steps(whole, "case") == 4
    # Finished cases are not segmented again; each stop costs the one that it fell into.
    assert sum(steps(one, "case") for one in killed) == 4 + 3
    one, other = tmp_path / "whole" / "masks", tmp_path / "killed" / "masks"
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in other.iterdir()) and len(names) == 2 * 4 + 2
    for name in names:
        if name != "manifest.json":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, other)]
    assert manifests[0] == manifests[1]
    assert np.asarray(nib.load(one / "case0.nii.gz").dataobj).any()
