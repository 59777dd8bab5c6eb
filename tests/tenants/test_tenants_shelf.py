"""Many adapters in one batch: each row is what its adapter alone would make of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graftwork as gw
from graftwork.tenants import Shelf
from tests.core.core_helpers import picture, stir
from tests.tenants.tenants_kit import net

ADAPTERS: dict[str, Any] = {
    "a": gw.LoRA(1), "b": gw.LoRA(3, alpha=5), "c": gw.LoRA(2, rslora=True, dropout=0.5), "d": gw.LoRA(4),
}  # fmt: skip


def filled(model: nn.Module, **more: Any) -> tuple[Shelf, nn.Module]:
    """A shelf of all adapters, and a copy of the model that carries them as grafts."""
    reference = copy.deepcopy(model)
    shelf = Shelf(model, gw.LoRA(4), sites="*", **more)
    for i, (name, method) in enumerate(ADAPTERS.items()):
        graft = stir(gw.graft(reference, method, sites="*", name=name, seed=i), 0.3, seed=i)
        if i % 2:
            shelf.add(name, graft)
        else:
            shelf.add(name, graft.tensors(), method)
    return shelf, reference


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([*ADAPTERS, ""]), min_size=1, max_size=9),
    st.sampled_from([(), (1,), (5,)]),
)
def test_rows_are_as_under_their_adapter_alone(names: list[str], lead: tuple[int, ...]) -> None:
    model = net().eval()
    shelf, reference = filled(model)
    x = torch.randn(len(names), *lead, 6, dtype=torch.float64)
    with torch.no_grad(), shelf.rows(names):
        y = model(x)
    for i, name in enumerate(names):
        gw.activate(reference, name or None)
        assert torch.allclose(reference(x[i : i + 1])[0], y[i], atol=1e-12)


def test_the_model_is_its_own_again_and_its_grafts_do_not_act_inside() -> None:
    model = net().eval()
    before = picture(model)
    shelf, reference = filled(model)
    x = torch.randn(3, 6, dtype=torch.float64)
    base = model(x)
    with shelf.rows(["", "", ""]):
        assert torch.equal(model(x), base)
    assert picture(model) == before and torch.equal(model(x), base)
    stir(gw.graft(model, gw.IA3(), name="other"), 0.3)
    other = model(x)
    gw.activate(reference, "b")
    with shelf.rows(["b"] * 3):
        assert torch.allclose(model(x), reference(x), atol=1e-12)
    assert torch.equal(model(x), other)
    with pytest.raises(ZeroDivisionError), shelf.rows(["a"]):
        raise ZeroDivisionError
    assert torch.equal(model(x), other)


def test_nothing_is_compiled_when_the_mix_changes() -> None:
    model = net().eval()
    shelf, _ = filled(model)
    counted: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        counted.append(1)
        return graph

    compiled = torch.compile(model, backend=backend)
    generator = torch.Generator().manual_seed(0)
    torch._dynamo.reset()
    for turn in range(12):
        if turn == 6:
            shelf.remove("d")
            shelf.add("e", stir(gw.graft(copy.deepcopy(net()), gw.LoRA(2), sites="*"), 0.4))
        pool = [*shelf.names, ""]
        names = [pool[int(i)] for i in torch.randint(len(pool), (5,), generator=generator)]
        x = torch.randn(5, 2, 6, generator=generator).double()
        with torch.no_grad(), shelf.rows(names):
            assert torch.allclose(compiled(x), model(x), atol=1e-12)
        if turn == 0:
            made = len(counted)
    assert made >= 1 and len(counted) == made


def test_slots_are_used_again_and_stay_clean() -> None:
    model = net().eval()
    shelf, reference = filled(model, capacity=4)
    x = torch.randn(2, 6, dtype=torch.float64)
    shelf.remove("d")  # of rank 4
    shelf.add("small", gw.get(reference, "a"))
    gw.activate(reference, "a")
    with torch.no_grad(), shelf.rows(["small", "a"]):
        assert torch.allclose(model(x), reference(x), atol=1e-12)
    with pytest.raises(gw.GraftError, match="full"):
        shelf.add("more", gw.get(reference, "b"))
    with pytest.raises(gw.GraftError, match="taken"):
        shelf.add("a", gw.get(reference, "b"))


def test_refusals() -> None:
    model = net().eval()
    shelf, reference = filled(model)
    for name, method, why in (
        ("dora", gw.DoRA(2), "more than factors"),
        ("wide", gw.LoRA(9), "rank 9, and the shelf 4"),
        ("norms", gw.NormAffine(), "not on the shelf"),
    ):
        graft = gw.graft(reference, method, name=name)
        with pytest.raises(gw.GraftError, match=why):
            shelf.add(name, graft)
    with pytest.raises(gw.GraftError, match="no adapter 'x'"), shelf.rows(["a", "x"]):
        pass
    with pytest.raises(gw.GraftError, match="one name for each row"), shelf.rows([]):
        pass
    with shelf.rows(["a", "b"]):
        with pytest.raises(gw.GraftError, match="in a block for 2 rows"):
            model(torch.randn(3, 6, dtype=torch.float64))
        with pytest.raises(gw.GraftError, match="another such block"):
            shelf.rows(["a"]).__enter__()
    with pytest.raises(gw.GraftError, match="has no rank"):
        Shelf(model, gw.IA3())
    with pytest.raises(gw.GraftError, match="capacity"):
        Shelf(model, gw.LoRA(2), capacity=0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with pytest.raises(gw.GraftError, match="out_proj is read by its owner without being called"):
        Shelf(attention, gw.LoRA(2), sites="out_proj")
    with pytest.raises(gw.GraftError, match="only linear layers"):
        Shelf(nn.Sequential(nn.Conv1d(8, 8, 3)), gw.LoRA(2), sites="*")
