"""Frozen norms stay frozen; the graft's own move, in the graft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import base_bits, bits, close, picture, train

NORMS: dict[str, tuple[type[nn.Module], int, dict[str, Any]]] = {
    "BatchNorm1d": (nn.BatchNorm1d, 1, {}),
    "BatchNorm2d": (nn.BatchNorm2d, 2, {}),
    "BatchNorm3d": (nn.BatchNorm3d, 3, {"momentum": None}),
    "BatchNorm2d, not affine": (nn.BatchNorm2d, 2, {"affine": False}),
    "SyncBatchNorm": (nn.SyncBatchNorm, 2, {}),
    "InstanceNorm1d": (nn.InstanceNorm1d, 1, {"track_running_stats": True, "affine": True}),
    "InstanceNorm2d": (nn.InstanceNorm2d, 2, {"track_running_stats": True}),
    "InstanceNorm3d": (nn.InstanceNorm3d, 3, {"track_running_stats": True, "affine": True}),
}


def build(which: str) -> tuple[nn.Sequential, Tensor]:
    cls, dims, options = NORMS[which]
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    model = nn.Sequential(conv(2, 4, 1), cls(4, **options), conv(4, 2, 1))
    x = 3 + 2 * torch.randn(4, 2, *[3] * dims)
    for _ in range(2):
        model(x) if which != "SyncBatchNorm" else model.eval()(x)
    return model.train(), x


@pytest.mark.parametrize("which", NORMS)
class TestFrozen:
    def test_frozen_ones_stay_in_eval_and_do_not_move(self, which: str) -> None:
        model, x = build(which)
        before = base_bits(model)
        expected = model.eval()(x).detach()
        graft = gw.graft(model.train(), gw.LoRA(2))
        assert not model[1].training
        close(model(x), expected, 1e-6)  # normalised by the frozen statistics, in training too
        train(model, graft, lambda: model(x), steps=3)
        assert model.training and not model[1].training
        assert base_bits(model) == before
        graft.remove()
        assert model[1].training and type(model[1]) is NORMS[which][0]
        assert base_bits(model) == before


# in training SyncBatchNorm runs on accelerators alone
@pytest.mark.parametrize("which", [n for n in NORMS if n != "SyncBatchNorm"])
@pytest.mark.parametrize("how", ["NormAffine", "also_train"])
class TestNamed:
    def test_named_ones_move_in_the_graft(self, which: str, how: str) -> None:
        model, x = build(which)
        base, before = picture(model), base_bits(model)
        expected = model.eval()(x).detach()
        model.train()
        if how == "NormAffine":
            graft = gw.graft(model, gw.NormAffine())
        else:
            graft = gw.graft(model, gw.LoRA(2), sites="2", also_train="1")
        start = {k: v.clone() for k, v in graft.tensors().items()}
        assert "1.module.running_mean" in start
        train(model, graft, lambda: model(10 * x)) if list(graft.parameters()) else model(10 * x)
        moved = {k for k, v in graft.tensors().items() if not torch.equal(v, start[k])}
        assert {"1.module.running_mean", "1.module.running_var"} <= moved
        assert base_bits(model) == before
        model.eval()
        with graft.off():
            assert torch.equal(model(x), expected)
        out = model(x)
        graft.merge()
        close(model(x), out, 1e-5)
        assert torch.equal(model[1].running_mean, graft.tensors()["1.module.running_mean"])
        graft.unmerge()
        assert base_bits(model) == before
        graft.remove()
        model.train()
        assert picture(model) == base


def test_the_training_flag_comes_back_as_it_would_be_without_the_graft() -> None:
    def flags(model: nn.Module) -> list[bool]:
        return [m.training for n, m in model.named_modules() if "_graft" not in n]

    model, _ = build("BatchNorm2d")
    model.train()
    model[1].eval()  # frozen by hand while the rest trains
    graft = gw.graft(model, gw.LoRA(2))
    graft.remove()
    assert flags(model) == [True, True, False, True]

    graft = gw.graft(model, gw.LoRA(2))
    model.eval()
    model.train()
    graft.remove()
    assert flags(model) == [True, True, True, True]

    graft = gw.graft(model.eval(), gw.LoRA(2))
    model[1].train()
    assert not model[1].training
    graft.remove()
    assert flags(model) == [False, False, True, False]


def test_two_grafts_of_which_one_names_the_norm() -> None:
    model, x = build("BatchNorm2d")
    before = base_bits(model)
    plain = gw.graft(model, gw.LoRA(2), name="plain")
    norms = gw.graft(model, gw.NormAffine(), name="norms")
    model.train()(10 * x)
    moved = bits(norms.tensors()["1.module.running_mean"])
    assert moved != before["1.running_mean"]
    gw.activate(model, "plain")
    model.train()(10 * x)
    assert bits(norms.tensors()["1.module.running_mean"]) == moved
    norms.remove()
    assert not model[1].training  # still frozen for the other graft
    plain.remove()
    assert model[1].training
    assert base_bits(model) == before


def test_norms_without_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False))
    model[2].running_mean = model[2].running_var = None
    gw.graft(model.train(), gw.LoRA(2))
    assert type(model[1]) is nn.LayerNorm and model[1].training
    assert type(model[2]) is nn.BatchNorm1d and model[2].training


@pytest.mark.parametrize(
    "spectral", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm]
)
def test_a_frozen_spectral_norm_does_not_iterate(spectral: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), spectral(nn.Linear(4, 4)))
    x = torch.randn(3, 4)
    expected = model.eval()(x).detach()
    before = base_bits(model)
    graft = gw.graft(model.train(), gw.LoRA(2))
    close(model(x), expected, 1e-6)
    train(model, graft, lambda: model(x))
    assert base_bits(model) == before
    graft.remove()
    model.train()(x)
    assert base_bits(model) != before  # and without a graft it does
