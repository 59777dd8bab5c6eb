"""The drawn faces of Alfa's experiment, and one tiny run of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.methods import alfa as benchmark
from benchmarks.methods.faces import degrees, draw_users, render
from graftwork_runs import validate_record


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gazes(n: int = 50) -> Tensor:
    return (torch.rand(n, 2, generator=rng()) - 0.5) * 1.2


def test_the_angle_is_zero_symmetric_and_shrinks_with_pitch() -> None:
    a, b = gazes(), gazes().flip(0)
    assert float(degrees(a, a).max()) < 1e-5
    torch.testing.assert_close(degrees(a, b), degrees(b, a))
    turn = torch.tensor([0.0, math.radians(7.0)])
    level, up = torch.zeros(1, 2), torch.tensor([[0.5, 0.0]])
    assert float(degrees(level, level + turn)) == pytest.approx(7.0, abs=1e-5)
    assert float(degrees(up, up + turn)) < 6.5
    torch.testing.assert_close(degrees(a, b), degrees(benchmark.undo(a), benchmark.undo(b)))


def test_a_mirrored_face_is_the_face_of_the_mirrored_gaze_but_for_the_light() -> None:
    who = torch.arange(8)
    for light, alike in ((0.0, True), (0.5, False)):
        users = draw_users(8, rng(1), light=light, shift=1.0)
        gaze = gazes(8)
        face = render(users, who, gaze, rng(2))
        other = render(users, who, benchmark.undo(gaze), rng(2))
        off = (benchmark.mirror(face) - other).abs().mean()
        assert (float(off) < 0.04) == alike  # pixel noise of 0.02 on both
    assert torch.equal(benchmark.mirror(benchmark.mirror(face)), face)


def test_kappa_moves_the_label_and_not_the_face() -> None:
    users = draw_users(4, rng(1), kappa=0.1)
    face = render(users, torch.arange(4), gazes(4), rng(2))
    users.kappa = users.kappa + 1.0
    assert torch.equal(render(users, torch.arange(4), gazes(4), rng(2)), face)


def test_a_tiny_run_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RATES", (1e-3,))
    arms = {k: v for k, v in benchmark.ARMS.items() if k in ("norm affine", "Alfa diagonal")}
    monkeypatch.setattr(benchmark, "ARMS", arms)
    sizes = ["--users", "3", "--epochs", "1", "--targets", "1", "--validation", "1", "--seeds", "2"]
    assert benchmark.main([*sizes, "--out", str(tmp_path / "alfa.json")]) == 0
    record = validate_record(tmp_path / "alfa.json")
    assert record.verdict is not None and record.seeds == [0, 1]
    for arm in arms:
        for case in ("light, 1 unlabelled", "kappa, 20 unlabelled", "light, 5 labelled"):
            [error] = record.find(variant=arm, case=case, metric="error")
            [before] = record.find(variant="not adapted", case=case, metric="error")
            [gain] = record.find(variant=arm, case=case, metric="gain")
            assert error.value is not None and before.value is not None and gain.value is not None
            assert before.value - error.value == pytest.approx(gain.value, abs=0.02)
            assert gain.value != 0.0
