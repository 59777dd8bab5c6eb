"""Whole blocks as sites: tuples, caches, refusals; and where prompts lie in a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.states import goes_on
from tests.core.core_helpers import close, stir
from tests.core.test_core_transformers import ids, llama, t5

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of itself as it loads


class Pair(nn.Module):
    """A block that returns something beside its hidden states."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.fc, self.form = nn.Linear(4, 4), form

    def forward(self, h: Tensor) -> Any:
        return self.form((self.fc(h), "beside"))


class Stack(nn.Module):
    def __init__(self, form: Any = tuple) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Pair(form)])

    def forward(self, h: Tensor) -> Any:
        return self.layers[0](h)


def edit(**fields: Any) -> gw.LoReFT:
    return gw.LoReFT(2, **{"first": 1, "last": 1, **fields})


@pytest.mark.parametrize("form", [tuple, list])
def test_the_first_tensor_of_a_tuple_is_changed_and_the_rest_kept(form: Any) -> None:
    model, base, h = Stack(form), Stack(form), torch.randn(2, 5, 4)
    stir(gw.graft(model, edit(), name="a"))
    y, beside = model(h)
    assert type(model(h)) is form and beside == "beside"
    alone = y - base(h)[0]
    assert bool(alone[:, [0, 4]].all()) and not alone[:, 1:4].any()
    stir(gw.graft(model, gw.AdaptFormer(3), sites=["layers.0"], name="b"))
    other = model(h)[0] - base(h)[0]
    gw.activate(model, {"a": 0.5, "b": 2.0})
    out = model(h)
    assert type(out) is form and out[1] == "beside"
    close(out[0], base(h)[0] + 0.5 * alone + 2.0 * other, 1e-5)


@pytest.mark.parametrize("form", [lambda out: dict(enumerate(out)), lambda out: out[::-1]])
def test_blocks_that_return_anything_else_are_refused(form: Any) -> None:
    model = Stack(form)
    gw.graft(model, edit())
    with pytest.raises(gw.GraftError, match=r"a grafted Pair returns a (dict|str), not a tensor"):
        model(torch.randn(2, 5, 4))


def test_a_method_may_refuse_a_block() -> None:
    model = Stack()
    with pytest.raises(gw.GraftError, match=r"loreft refuses layers\.0: .*width"):
        gw.graft(model, edit().with_fields(rank=5), sites=["layers.0"])
    with pytest.raises(gw.GraftError, match=r"layers\.0: .*above the width"):
        gw.graft(model, edit().with_fields(rank=5))
    spec = gw.graft(Stack(), edit()).spec()
    spec["method"]["config"]["rank"] = 5
    with pytest.raises(gw.GraftError, match=r"layers\.0: .*above the width"):
        gw.graft_from_spec(model, spec)
    assert not gw.grafts(model)


def test_tuples_of_a_real_model() -> None:
    model = t5()
    run = {"input_ids": ids(), "labels": ids()}
    with torch.no_grad():  # with gradients, other kernels run where the base does not train
        logits = model(**run).logits
        graft = gw.graft(model, gw.LoReFT(2, first=2, last=1))
        assert len(graft.entry.sites) == 4
        assert torch.equal(model(**run).logits, logits)
        stir(graft)
        assert not torch.equal(model(**run).logits, logits)
    gw.check_reach(model, **run)
    for method in (gw.LoReFT(2, where="prompt"), gw.LoReFT(2, where="all")):
        graft.remove()
        graft = stir(gw.graft(model, method, sites=["encoder.block.[0-9]"]))
        assert [s.name for s, _ in graft.entry.sites] == ["encoder.block.0", "encoder.block.1"]
        how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
        cached = model.generate(ids(), **how)
        assert torch.equal(model.generate(ids(), use_cache=False, **how), cached)


class Cache:
    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths

    def get_seq_length(self, layer: int = 0) -> int:
        return self.lengths[layer]


def test_a_call_goes_on_where_its_own_layer_is_in_the_cache() -> None:
    block = nn.Sequential(nn.Linear(2, 2))
    assert not goes_on(block, (torch.zeros(1),), {"past": None})
    with pytest.raises(gw.GraftError, match="nothing in it has a layer_idx"):
        goes_on(block, (), {"past_key_values": Cache(0)})
    block[0].layer_idx = 1
    # in a first call the layers below have written already
    assert not goes_on(block, (), {"past_key_values": Cache(6, 0)})
    assert goes_on(block, (torch.zeros(1), Cache(0, 6)), {})


def test_all_edits_generated_tokens_too() -> None:
    model = llama().double()
    stir(gw.graft(model, gw.LoReFT(2, where="all")))
    seen: list[Tensor] = []
    model.model.layers[0].register_forward_hook(lambda m, i, out: seen.append(out))
    how: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    model.generate(ids(), **how)
    cached, seen[:] = torch.cat(seen, 1), []
    model.generate(ids(), use_cache=False, **how)
    close(cached, seen[-1], 1e-10)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"end": 1.5}, "end must be whole numbers"),
        ({"end": [True, False]}, "end must be whole numbers"),
        ({"end": "six"}, "end must be whole numbers"),
        ({"end": 5, "start": [[0, 1], [2]]}, "start must be whole numbers"),
        ({"end": 5, "start": -1}, "0 or more for each row"),
        ({"end": 2, "start": [0, 3]}, "end not below start"),
        ({"end": [5, 6, 7], "start": [0, 1]}, "2 starts and 3 ends"),
        ({"end": torch.zeros(0, dtype=torch.long)}, "0 or more for each row"),
    ],
)
def test_bad_places_are_refused(places: dict[str, Any], words: str) -> None:
    model = Stack()
    gw.graft(model, edit())
    with pytest.raises(gw.GraftError, match=words), gw.prompt(model, **places):
        pass


def test_a_prompt_is_forgotten_behind_its_block_also_after_an_error() -> None:
    model, h = Stack(), torch.randn(2, 5, 4)
    stir(gw.graft(model, edit()))
    y = model(h)[0]
    with pytest.raises(ZeroDivisionError), gw.prompt(model, 3):
        assert not torch.equal(model(h)[0], y)
        1 / 0  # noqa: B018
    assert torch.equal(model(h)[0], y)
    again = gw.prompt(model, 3)
    with gw.prompt(model, 3), pytest.raises(gw.GraftError, match="another such block"), again:
        pass
    with gw.prompt(nn.Linear(2, 2), 3):  # nothing there acts on positions
        pass


EDITS = [edit(dropout=0.2), gw.DiReFT(2, where="prompt"), gw.PrefixTuning(3, std=0.3)]


@pytest.mark.parametrize("method", EDITS, ids=lambda m: m.id)
@pytest.mark.parametrize("reentrant", [False, True])
def test_transformers_checkpointing_gives_the_same_gradients(method: Any, reentrant: bool) -> None:
    model = llama()
    graft = stir(gw.graft(model, method), 0.1)
    model.train()

    def grads() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(2)
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in graft.named_parameters() if p.grad is not None}

    plain = grads()
    assert len(plain) == len(list(graft.parameters()))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    other = grads()
    assert plain.keys() == other.keys()
    for name, grad in plain.items():
        close(other[name], grad, 1e-5)


@pytest.mark.parametrize("method", EDITS, ids=lambda m: m.id)
def test_a_transformers_model_compiles_to_one_graph(method: Any) -> None:
    torch._dynamo.reset()
    model = llama()
    stir(gw.graft(model, method), 0.1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        close(compiled(ids(), use_cache=False).logits, model(ids(), use_cache=False).logits, 1e-5)


def test_blocks_inside_blocks_are_default_sites_alone() -> None:
    inner = nn.ModuleDict({"blocks": nn.ModuleList([Pair(tuple)])})
    model = nn.ModuleDict({"layers": nn.ModuleList([inner, Pair(tuple)])})
    graft = gw.graft(model, edit())
    assert [s.name for s, _ in graft.entry.sites] == ["layers.0.blocks.0", "layers.1"]
    assert "layers.0" in graft.entry.left_out
