"""maritime's jobs in a shared run: each is what `maritime fit` makes of it, whatever its neighbours' lengths."""

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
from graftwork_maritime.app import APP
from graftwork_maritime.app import main as maritime
from graftwork_runs.many import report
from tests.train_many_kit import alone

SETTINGS: dict[str, Any] = {
    "data.train": 8,
    "data.val": 2,
    "data.batch_size": 2,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 3,
    "model.dtype": "float32",
}
JOBS: dict[str, dict[str, Any]] = {
    "distress": SETTINGS,
    "coastal": {
        **SETTINGS,
        "data.preset": "coastal",
        "data.form": "full",
        "data.seed": 4,
        "data.batch_size": 1,
        "graft.rank": 4,
        "seed_everything": 3,
    },
    # all tokens' logits are needed where the head trains, too
    "head": {**SETTINGS, "sites": ["*.q_proj", "lm_head"], "trainer.max_steps": 2},
}


@pytest.fixture(autouse=True)
def in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with alone(monkeypatch, tmp_path, report, {"maritime": APP}):
        yield


def jobs(given: dict[str, dict[str, Any]], **top: Any) -> str:
    listed = [{"name": n, "app": "maritime", "set": s} for n, s in given.items()]
    Path("jobs.yaml").write_text(yaml.safe_dump({"jobs": listed, "run_dir": "many", **top}))
    return "jobs.yaml"


def tensors(folder: str) -> dict[str, Tensor]:
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file)


def test_jobs_of_maritime_share_a_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-many", jobs(JOBS, validate_every=2)]) == 0, capsys.readouterr().err
    told = json.loads(Path("many/many.json").read_text())
    assert {j["status"] for j in told["jobs"]} == {"done"}
    for job in told["jobs"]:
        assert not job["failures"]
        assert [s for s, _ in job["validation"]["val_loss"]] == sorted({2, job["steps"]})
    assert told["waste"]["all together"]["padded"] > 0
    for name, given in JOBS.items():
        words = [
            f"--{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in given.items()
        ]
        assert maritime(["fit", "--quiet", "--run_dir", f"solo-{name}", *words]) == 0
        mine, solo = tensors(f"many/{name}/graft"), tensors(f"solo-{name}/graft")
        assert mine.keys() == solo.keys()
        for key, value in solo.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=1e-4)
        seen, want = (gw.inspect(f"{f}/graft") for f in (f"many/{name}", f"solo-{name}"))
        assert seen["app"] == want["app"]
        assert seen["data_card"] == want["data_card"]


def test_a_base_in_bfloat16_keeps_its_factors_in_float32() -> None:
    small = {**SETTINGS, "model.dtype": "bfloat16", "trainer.max_steps": 1}
    two = {"a": small, "b": {**small, "data.seed": 1}}
    assert main(["train-many", jobs(two), "--quiet"]) == 0
    for name in two:
        assert {t.dtype for t in tensors(f"many/{name}/graft").values()} == {torch.float32}


def test_mixed_precision_is_that_of_fit() -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    small = {**SETTINGS, "optimizer": sgd, "trainer.max_steps": 2}
    mixed = {**small, "trainer.precision": "bf16-mixed"}
    two = {"a": mixed, "b": {**mixed, "data.seed": 1}}
    assert main(["train-many", jobs(two), "--quiet"]) == 0

    def solo(name: str, given: dict[str, Any]) -> Tensor:
        words = [
            f"--{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in given.items()
        ]
        assert maritime(["fit", "--quiet", "--run_dir", name, *words]) == 0
        return lora_b(f"{name}/graft")

    mine, same, full = lora_b("many/a/graft"), solo("mixed", mixed), solo("full", small)
    apart, moved = (mine - same).norm() / same.norm(), (mine - full).norm() / full.norm()
    assert apart < 0.02
    assert moved > 1e-4  # autocast is at work


def lora_b(folder: str) -> Tensor:
    """What starts at zero, so that it is the change by training."""
    found = tensors(folder)
    return torch.cat([t.flatten() for k, t in sorted(found.items()) if k.endswith("B")])


def test_grafts_on_positions_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    graft = {"class_path": "graftwork.LoReFT"}
    file = jobs({"a": SETTINGS, "b": {**SETTINGS, "graft": graft, "sites": None}})
    assert main(["train-many", file, "--check"]) == 2
    assert "job 'b': graft: LoReFT acts on positions" in capsys.readouterr().err
