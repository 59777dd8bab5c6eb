"""`graftwork demo`: quick, plain, and its proof is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.cli import demo_run, main
from graftwork.cli.demo_data import SHAPES, shapes
from tests.cli.cli_helpers import before_torch, own_process


def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    first, *_ = before_torch("graftwork.cli", "demo", "--out", str(tmp_path / "kept"))
    assert "synthetic" in first


def test_all_promises_hold(tmp_path: Path) -> None:
    run = own_process("demo", "--out", str(tmp_path / "kept"), timeout=240)
    assert (run.returncode, run.stderr) == (0, "")
    rest = run.stdout
    proof = next(line for line in rest.splitlines() if line.startswith("proof: "))
    assert "off = base bit for bit; merged = forward to " in proof and "FAILED" not in proof
    assert "\x1b" not in rest
    base, _, _, grafted = rest.split("new camera  old camera")[1].splitlines()[1:5]
    assert float(grafted.split("%")[0].split()[-1]) > float(base.split("%")[0].split()[-1]) + 20
    assert gw.inspect(tmp_path / "kept")["graft"]["method"]["id"] == "lora"


def test_a_promise_that_does_not_hold_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(demo_run, "_train", lambda *a, **k: None)  # the figures do not matter here
    assert main(["demo", "--json"]) == 0
    assert all(json.loads(capsys.readouterr().out)["proof"].values())

    real = gw.Graft.unmerge

    def careless(graft: gw.Graft) -> None:
        real(graft)
        with torch.no_grad():
            next(graft.model.parameters()).mul_(1 + 1e-6)

    monkeypatch.setattr(gw.Graft, "unmerge", careless)
    assert main(["demo"]) == 1
    assert "unmerge restores every bit FAILED" in capsys.readouterr().out


def test_the_data_are_balanced_finite_and_repeatable() -> None:
    for camera in ("old", "new"):
        x, y = shapes(50, camera, 3)
        assert x.shape == (50, 1, 16, 16) and bool(torch.isfinite(x).all())
        assert torch.equal(y.bincount(), torch.full((len(SHAPES),), 10))
        assert torch.equal(x, shapes(50, camera, 3)[0])
        assert not torch.equal(x, shapes(50, camera, 4)[0])


def test_the_demo_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "_train", lambda *a, **k: None)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    demo_run.rehearse(0, None, lambda line: None)
    assert torch.equal(torch.rand(3), expected)
