"""A model inside and after a mixed block: what it leaves behind, sees anew, and refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.tenants import Mix, Segments, mixed
from tests.core.core_helpers import base_bits, picture, stir
from tests.tenants.tenants_kit import clear, grads, grafted, net


def test_the_model_is_as_before_after_the_block_and_after_an_error_in_it() -> None:
    model = grafted(net(), {"a": gw.LoRA(2), "b": gw.IA3()})
    gw.activate(model, {"a": 0.5, "b": 1.0})
    x = torch.randn(4, 6, dtype=torch.float64)
    before, seen, y = base_bits(model), picture(model), model(x)
    with mixed(model, Segments(("a", "b"), (2, 2))):
        copied = copy.deepcopy(model)
        model(x).sum().backward()
    clear(model)
    with pytest.raises(ZeroDivisionError), mixed(model, Segments(("a", "b"), (2, 2))):
        raise ZeroDivisionError
    assert base_bits(model) == before and gw.active(model) == {"a": 0.5, "b": 1.0}
    assert picture(model) == seen
    assert torch.equal(model(x), y)
    assert gw.active(copied) == {}  # a copy made inside is no part of the block
    gw.activate(copied, {"a": 0.5, "b": 1.0})
    assert torch.equal(copied(x), y)


def test_a_pass_sees_what_was_written_and_moved_since_the_last_one() -> None:
    model = grafted(net(), {"a": gw.LoRA(2), "b": gw.LoRA(2, dropout=0.5)}).eval()
    mix, segments = Mix(model), Segments(("a", "b"), (2, 3))
    x = torch.randn(5, 6, dtype=torch.float64)

    def check() -> None:
        with mix.on(segments):
            y = model(x.to(next(model.parameters()).dtype))
        for name in segments.tasks:
            gw.activate(model, name)
            assert torch.allclose(
                model(segments.take(x.to(y.dtype), name)), segments.take(y, name), atol=1e-6
            )

    check()
    stir(gw.get(model, "a"), 0.5, seed=1)
    check()
    for p in gw.get(model, "b").parameters():
        p.data = p.data * 2
    check()
    gw.get(model, "b").load_tensors({k: t + 1 for k, t in gw.get(model, "b").tensors().items()})
    check()
    model.float()
    check()
    gw.get(model, "b").remove()
    stir(gw.graft(model, gw.LoRA(3), name="b"), 0.3)
    check()


def test_two_passes_before_their_backward() -> None:
    """A pass does not overwrite the copies of factors that another one's graph still needs."""
    model = grafted(net(), {"a": gw.LoRA(2), "b": gw.LoRA(2)})
    mix, segments = Mix(model), Segments(("a", "b"), (2, 2))
    x = torch.randn(4, 6, dtype=torch.float64)
    with mix.on(segments):
        model(x).square().sum().backward()
    expected = [g.clone() for n in "ab" for g in grads(model, n) if g is not None]
    clear(model)
    with mix.on(segments):
        first = model(x).square().sum()
    saved = {n: {k: t.clone() for k, t in gw.get(model, n).tensors().items()} for n in "ab"}
    for n in "ab":
        stir(gw.get(model, n), 1.0)
    with mix.on(segments), torch.no_grad():
        model(x)
    for n in "ab":
        gw.get(model, n).load_tensors(saved[n])
    first.backward()
    found = [g for n in "ab" for g in grads(model, n) if g is not None]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases_train_factors_in_float32(dtype: torch.dtype) -> None:
    model = grafted(net().to(dtype), {"a": gw.LoRA(2), "b": gw.LoRA(4, alpha=3)})
    segments = Segments(("a", "b"), (3, 5))
    x = torch.randn(8, 6).to(dtype)
    with mixed(model, segments):
        y = model(x)
    y.float().square().sum().backward()
    found = {n: [g.clone() for g in grads(model, n) if g is not None] for n in "ab"}
    clear(model)
    for n in "ab":
        gw.activate(model, n)
        mine = model(segments.take(x, n))
        assert (mine - segments.take(y, n)).abs().max() <= 0.05 * mine.abs().max()
        mine.float().square().sum().backward()
        for a, b in zip(found[n], grads(model, n), strict=True):
            assert b is not None and a.dtype is torch.float32
            assert (a - b).norm() <= 0.05 * b.norm() + 1e-4


def test_refusals_name_what_is_wrong() -> None:
    model = grafted(net(), {"a": gw.LoRA(2), "b": gw.LoRA(2)})
    with (
        pytest.raises(gw.GraftError, match="no graft 'c'"),
        mixed(model, Segments(("a", "c"), (1, 1))),
    ):
        pass
    with (
        mixed(model, Segments(("a",), (2,))),
        pytest.raises(gw.GraftError, match="another such block"),
        mixed(model, Segments(("a",), (2,))),
    ):
        pass
    with (
        mixed(model, Segments(("a", "b"), (2, 1))),
        pytest.raises(gw.GraftError, match="4 vectors in a batch of 3"),
    ):
        model(torch.randn(4, 6, dtype=torch.float64))
    gw.get(model, "a").merge()
    with pytest.raises(gw.GraftError, match="is merged"), mixed(model, Segments(("b",), (2,))):
        pass
    gw.get(model, "a").unmerge()
    gw.graft(model, gw.LoRA(2), also_train=[gw.NewRows("down", 2)], name="wider")
    with (
        pytest.raises(gw.GraftError, match="'wider' has new rows"),
        mixed(model, Segments(("wider", "a"), (1, 1))),
    ):
        pass
    for names, sizes in ((("a",), (1, 2)), (("a",), (0,)), (("a", "b"), (1, -1))):
        with pytest.raises(gw.GraftError, match="Segments"):
            Segments(names, sizes)


def test_models_that_mix_rows_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    gw.graft(model, gw.LoRA(2), sites=["0"], name="a")
    with (
        pytest.raises(gw.GraftError, match="1: batch statistics"),
        mixed(model, Segments(("a",), (3,))),
    ):
        pass
    second = nn.TransformerEncoderLayer(8, 2, 16)
    gw.graft(second, gw.LoRA(2), name="a")
    with (
        pytest.raises(gw.GraftError, match=r"self_attn: .*batch_first"),
        mixed(second, Segments(("a",), (3,))),
    ):
        pass
