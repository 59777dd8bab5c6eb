"""Any mergeable graft as plain LoRA: exact where the rank suffices, the best approximation elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.store import from_peft, to_lora, to_peft
from tests.store.kit import grafted, randomised, same, state_of, x

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 7)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "depthwise": (lambda: nn.Conv1d(4, 8, 3, groups=4), (2, 4, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
}
METHODS = [gw.LoRA(3, alpha=6.0), gw.DoRA(2), gw.DiaBlo(2), gw.IA3("input")]


def double(layer: str, method: gw.LoRA) -> tuple[gw.Graft, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = LAYERS[layer]
    return randomised(gw.graft(nn.Sequential(build()).double(), method)), torch.randn(
        shape
    ).double()


def matrix(g: gw.Graft) -> torch.Tensor:
    """The weight change of the one site, rows by output channel, one matrix per group."""
    ((_, state),) = g.states()
    change = state.delta(g.model[0]).weight.detach()
    return state.geo.canonical(change).flatten(2)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.id)
@pytest.mark.parametrize("layer", LAYERS)
def test_full_rank_is_exact(layer: str, method: gw.LoRA) -> None:
    g, z = double(layer, method)
    y = g.model(z)
    c = to_lora(g, rank=72)
    assert c.graft.method.id == "lora" and c.total < 1e-13
    assert torch.allclose(g.model(z), y, rtol=0, atol=1e-10)  # the new one is on, alone
    assert list(gw.grafts(g.model)) == ["default", "default_lora"]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.id)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rank", [1, 2])
def test_truncation_is_the_best_of_its_rank(layer: str, method: gw.LoRA, rank: int) -> None:
    g, _ = double(layer, method)
    m = matrix(g)
    groups = m.shape[0]
    if rank % groups:
        m, groups = m.flatten(0, 1).unsqueeze(0), 1
    s = torch.linalg.svdvals(m)
    best = float(s[:, rank // groups :].norm() / s.norm())
    c = to_lora(g, rank=rank)
    assert c.rows[0][1] == rank
    assert abs(c.rows[0][2] - best) < 1e-10 and abs(c.total - best) < 1e-10


@pytest.mark.parametrize("layer", LAYERS)
def test_an_error_bound_is_kept_with_the_smallest_rank(layer: str) -> None:
    g, _ = double(layer, gw.DiaBlo(1))
    s = torch.linalg.svdvals(matrix(g))
    for bound in (0.5, 0.2, 0.01):
        c = to_lora(g, error=bound, new_name="n")
        ((_, rank, lost),) = c.rows
        each = rank // s.shape[0]
        assert lost <= bound
        assert each == 1 or float(s[:, each - 1 :].norm() / s.norm()) > bound
        c.graft.remove()


def test_error_report_over_several_sites() -> None:
    torch.manual_seed(0)
    g = randomised(gw.graft(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), gw.DiaBlo(1)))
    deltas = [s.delta(g.model[i]).weight.detach() for i, (_, s) in enumerate(g.states())]
    c = to_lora(g, rank=2)
    sizes = [float(d.norm()) for d in deltas]
    lost = [r[2] * n for r, n in zip(c.rows, sizes, strict=True)]
    assert c.total == pytest.approx(
        sum(e**2 for e in lost) ** 0.5 / sum(n**2 for n in sizes) ** 0.5
    )
    text = str(c)
    assert "relative error" in text and f"{c.total:.2e}" in text and f"{c.rows[1][2]:.2e}" in text


def test_zero_change_and_carried_modules() -> None:
    g = gw.graft(grafted().model, gw.LoRA(2), sites="stem", also_train=["head"], name="zero")
    with torch.no_grad():
        g.model.head._graft.zero.module.weight.fill_(0.25)
    y = g.model(x())
    c = to_lora(g, error=0.1)
    assert c.rows == (("stem", 1, 0.0),) and c.total == 0.0
    assert torch.equal(g.model(x()), y)
    assert c.graft.spec()["also_train"] == g.spec()["also_train"]


def test_on_through_a_peft_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    g = randomised(gw.graft(model, gw.DiaBlo(2)))
    z = torch.randn(3, 6).double()
    y = model(z)
    c = to_lora(g, error=1e-9)
    folder = to_peft(c.graft, tmp_path / "a")
    c.graft.remove()
    g.remove()
    from_peft(model, folder)
    assert torch.allclose(model(z), y, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (gw.BitFit(), "bitfit changes the bias"),
        (gw.IA3(), "ia3 changes the bias"),
        (gw.NormAffine(), "norm_affine has no LoRA form"),
        (gw.AdaptFormer(2), "adaptformer has no LoRA form"),
    ],
    ids=lambda m: getattr(m, "id", ""),
)
def test_what_has_no_lora_form_is_refused(method: gw.LoRA, word: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    g = randomised(gw.graft(model, method))
    before = state_of(model)
    with pytest.raises(gw.GraftError, match=word):
        to_lora(g, rank=2)
    assert same(state_of(model), before)


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({}, "either rank or error"),
        ({"rank": 1, "error": 0.1}, "either rank or error"),
        ({"rank": 0}, "rank must be"),
        ({"rank": 1.5}, "rank must be"),
        ({"error": 1.0}, "error must lie"),
        ({"error": float("nan")}, "error must lie"),
        ({"rank": 1, "new_name": "default"}, "already has a graft"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], word: str) -> None:
    with pytest.raises(gw.GraftError, match=word):
        to_lora(grafted(), **kwargs)
