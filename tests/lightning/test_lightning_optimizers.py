"""The graft's own optimizers under Lightning: named by a config, resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from resume_run import Net, final_state, run
from same import differences
from test_lightning_points import KeepEach
from tinyapp.app import app

import graftwork as gw
from graftwork.lightning.checkpoint_io import load_checkpoint

BUILD = {
    "LoFT": lambda net: gw.LoFT(net, lr=0.01, max_norm=1.0),
    "LoFTSimple": lambda net: gw.LoFTSimple(net, lr=0.01),
    "LoRAPlus": lambda net: gw.LoRAPlus(net, lr=0.01, ratio=4.0),
}
STATE = {"LoFT": "cross", "LoFTSimple": "previous", "LoRAPlus": "exp_avg_sq"}


@pytest.mark.parametrize("name", BUILD)
def test_a_run_resumes_exactly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # both turns, and in the middle of an accumulation
    monkeypatch.setattr(Net, "configure_optimizers", BUILD[name])
    each = tmp_path / "each"
    keep = KeepEach(tmp_path / "whole", each)
    whole = final_state_of(
        run(tmp_path / "whole", workers=0, epochs=1, callbacks=[keep]),
    )
    assert any(STATE[name] in state for state in whole["optimizer"]["state"].values())
    for point in ("0-02", "0-05", "0-08"):
        resumed = final_state_of(run(each / point, workers=0, epochs=1))
        assert differences(whole, resumed) == [], point


def final_state_of(trainer: Any) -> dict[str, Any]:
    """`final_state` of a run without a schedule."""
    trainer.strategy.lr_scheduler_configs = [_Unscheduled()]
    return final_state(trainer)


class _Unscheduled:
    scheduler: Any

    def __init__(self) -> None:
        self.scheduler = self

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("name", BUILD)
def test_a_config_names_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(
        f"optimizer: {{class_path: graftwork.{name}, init_args: {{lr: 0.02, betas: [0.8, 0.99]}}}}\n"
        "graft: {class_path: graftwork.LoRA, init_args: {rank: 2}}\n"
        "sites: ['0', '2']\n"
        "trainer: {max_epochs: 1}\n"
    )
    assert app.main(["fit", "--config", "run.yaml", "--run_dir", "there", "--quiet"]) == 0
    saved = load_checkpoint(next(Path("there").rglob("*.ckpt")))["optimizer_states"][0]
    assert all(STATE[name] in state for state in saved["state"].values())
    group = saved["param_groups"][-1]
    assert group["lr"] == (0.32 if name == "LoRAPlus" else 0.02)
    assert tuple(group["betas"]) == (0.8, 0.99)


def test_a_graft_that_it_cannot_serve_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--optimizer", "graftwork.LoFT", "--graft", "graftwork.DoRA", "--graft.rank", "2"]
    assert app.main(["fit", *arguments, "--run_dir", "there", "--quiet"]) == 2
    assert "the change of DoRA is not B A alone" in capsys.readouterr().err


def test_a_methods_own_rates_reach_the_optimizer_that_a_config_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = (
        "optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.02, weight_decay: 0.1}}\n"
        "graft: {class_path: graftwork.NOBLE, init_args: {rank: 2, up_std: 0.01}}\n"
        "sites: ['0']\n"
        "trainer: {max_epochs: 1}\n"
        "lr_scheduler: {class_path: torch.optim.lr_scheduler.%s}\n"
    )
    Path("run.yaml").write_text(config % "ConstantLR, init_args: {factor: 0.5, total_iters: 1000}")
    assert app.main(["fit", "--config", "run.yaml", "--run_dir", "there", "--quiet"]) == 0
    groups = load_checkpoint(next(Path("there").rglob("*.ckpt")))["optimizer_states"][0][
        "param_groups"
    ]
    found = {
        n.split(".")[-1]: (g["lr"] / 0.01, g["weight_decay"]) for g in groups for n in g["params"]
    }
    assert found["phase1"] == pytest.approx((4.0, 0.0)) and found["freq2"] == pytest.approx((2, 0))
    assert found["down"] == pytest.approx((1.0, 0.1)) and found["up"][0] > 1
    Path("run.yaml").write_text(config % "OneCycleLR, init_args: {max_lr: 0.1, total_steps: 99}")
    assert app.main(["fit", "--config", "run.yaml", "--run_dir", "other", "--quiet"]) == 2
    assert "it sets one rate for all parameter groups" in capsys.readouterr().err
