"""medseg's jobs in a shared run: patches of one shape share passes, and each job is what `medseg fit` makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import graftwork as gw
from graftwork.cli import main
from graftwork_medseg.app import main as medseg
from graftwork_runs.many import report
from tests.train_many_kit import alone


@pytest.fixture(autouse=True)
def in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with alone(monkeypatch, tmp_path, report):
        yield


def settings(data: Path, **more: Any) -> dict[str, Any]:
    return {
        "data": "graftwork_medseg.data.FolderData",
        "data.path": str(data),
        "data.roi": [16, 16, 16],
        "data.patches_per_epoch": 2,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "sites": None,
        "also_train": [],
        **{k.replace("__", "."): v for k, v in more.items()},
    }


def tensors(folder: str) -> dict[str, Tensor]:
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file)


def test_jobs_of_medseg_share_a_backbone(
    data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = settings(data_folder)
    jobs = {
        "a": base,
        "b": {**base, "seed_everything": 3, "graft.rank": 2},
        "cube": {**base, "data.roi": [8, 16, 16]},
    }
    listed = [{"name": n, "app": "medseg", "set": s} for n, s in jobs.items()]
    Path("jobs.yaml").write_text(
        yaml.safe_dump({"jobs": listed, "run_dir": "many", "validate_every": 2})
    )
    assert main(["train-many", "jobs.yaml"]) == 0, capsys.readouterr().err
    told = json.loads(Path("many/many.json").read_text())
    together = {n for g in told["groups"] for n in g if "cube" in g}
    assert together == {"cube"}  # patches of another shape cannot share a pass
    assert Path("many/report.html").exists()
    for job in told["jobs"]:
        assert not job["failures"]
        assert [s for s, _ in job["validation"]["validate_dice"]][-1] == job["steps"]
    for name, given in jobs.items():
        words = [
            f"--{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in given.items()
        ]
        assert medseg(["fit", "--quiet", "--run_dir", f"solo-{name}", *words]) == 0
        mine, solo = tensors(f"many/{name}/graft"), tensors(f"solo-{name}/graft")
        assert mine.keys() == solo.keys()
        for key, value in solo.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=1e-4)
        assert gw.inspect(f"many/{name}/graft")["app"] == gw.inspect(f"solo-{name}/graft")["app"]
