"""The same base agrees with itself in every float precision; another one never does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import graftwork as gw
from tests.store.kit import grafted, net, randomised, same, state_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def published(dtype: torch.dtype) -> nn.Module:
    """A base as somebody published it, in this precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 20))
    return model.to(dtype)


@pytest.mark.parametrize("trained", DTYPES, ids=str)
@pytest.mark.parametrize("loaded", DTYPES, ids=str)
@pytest.mark.parametrize("origin", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_precision_of_one_base_agrees(
    origin: torch.dtype, trained: torch.dtype, loaded: torch.dtype, tmp_path: Path
) -> None:
    g = randomised(gw.graft(published(origin).to(trained), gw.LoRA(2)))
    gw.save(g, tmp_path / "a")
    gw.load(published(origin).to(loaded), tmp_path / "a")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_another_base_of_the_same_shape_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    g = randomised(gw.graft(published(torch.float32), gw.LoRA(2)))
    gw.save(g, tmp_path / "a")
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 20)).to(dtype)
    with pytest.raises(gw.GraftError) as e:
        gw.load(other, tmp_path / "a")
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert f"{name}: other values" in str(e.value)
    assert not gw.grafts(other)
    gw.load(other, tmp_path / "a", allow_other_base=True)


def test_one_changed_entry_is_noticed(tmp_path: Path) -> None:
    g = grafted()
    gw.save(g, tmp_path / "a")
    model = net()
    with torch.no_grad():
        model.blocks[1][0].weight[3, 2] *= 1.01
    with pytest.raises(gw.GraftError) as e:
        gw.load(model, tmp_path / "a")
    lines = [line for line in str(e.value).splitlines() if line.startswith("  ")]
    assert lines == ["  blocks.1.0.weight: other values"]


def test_a_head_that_the_graft_replaces_may_differ(tmp_path: Path) -> None:
    # a fresh classifier is random at each start; the graft brings its own
    gw.save(grafted(), tmp_path / "a")
    model = net()
    nn.init.normal_(model.head.weight)
    gw.load(model, tmp_path / "a")


@pytest.mark.parametrize("depth", [1, 3])
def test_deeper_and_shallower_bases(depth: int, tmp_path: Path) -> None:
    gw.save(grafted(depth=2), tmp_path / "a")
    model = net(depth=depth)
    model.load_state_dict(net(depth=2).state_dict(), strict=False)  # the common layers are equal
    before = state_of(model)
    with pytest.raises(gw.GraftError) as e:
        gw.load(model, tmp_path / "a")
    assert f"blocks.#.#.weight 4x4x1x1: {depth} here, 2 in the graft's base" in str(e.value)
    if depth == 1:
        assert "blocks.1.0: the model has no such layer" in str(e.value)
        assert "blocks.1.0.weight: not in this model" in str(e.value)
    assert same(state_of(model), before)
    if depth == 1:  # missing sites are beyond any override
        with pytest.raises(gw.GraftError, match=r"blocks\.1\.0"):
            gw.load(model, tmp_path / "a", allow_other_base=True)


def test_wider_base_names_shapes(tmp_path: Path) -> None:
    gw.save(randomised(gw.graft(nn.Sequential(nn.Linear(4, 4)), gw.LoRA(2))), tmp_path / "a")
    with pytest.raises(gw.GraftError) as e:
        gw.load(nn.Sequential(nn.Linear(4, 5)), tmp_path / "a")
    assert "0.B: shape (4, 2) in the file, (5, 2) on this model" in str(e.value)
    assert "0.weight: shape (5, 4) here, (4, 4) in the graft's base" in str(e.value)


def test_another_kind_of_layer(tmp_path: Path) -> None:
    gw.save(randomised(gw.graft(nn.Sequential(nn.Conv1d(4, 4, 1)), gw.LoRA(2))), tmp_path / "a")
    with pytest.raises(gw.GraftError, match="a linear here, a conv1d in the graft"):
        gw.load(nn.Sequential(nn.Linear(4, 4)), tmp_path / "a", allow_other_base=True)


def test_a_base_without_values(tmp_path: Path) -> None:
    gw.save(grafted(), tmp_path / "a")
    with pytest.raises(gw.GraftError, match="meta device"):
        gw.load(net().to("meta"), tmp_path / "a")


def test_block_grafts_are_tied_to_their_block(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module("mlp", nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)))
        return model

    g = randomised(gw.graft(build(), gw.AdaptFormer(2), sites="mlp"))
    gw.save(g, tmp_path / "a")
    gw.load(build(), tmp_path / "a")
    other = build()
    with torch.no_grad():
        other.mlp[2].weight[0, 0] += 1
    with pytest.raises(gw.GraftError, match=r"mlp\.2\.weight: other values"):
        gw.load(other, tmp_path / "a")
