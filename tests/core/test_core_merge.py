"""Merging is all or nothing, and unmerging gives back every bit and every object."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import base_bits, bits, close, net, picture, stir, tokens, train

METHODS: dict[str, Any] = {
    "lora": gw.LoRA(2),
    "rslora": gw.LoRA(4, rslora=True, alpha=8.0),
    "dora": gw.DoRA(2),
    "diablo": gw.DiaBlo(4),
    "ia3": gw.IA3(),
    "bitfit": gw.BitFit(),
    "norms": gw.NormAffine(),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEEPS = ["device", "cpu", "disk"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Any:
    return METHODS[request.param]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keep", KEEPS)
def test_merge_then_unmerge_is_identity(method: Any, dtype: torch.dtype, keep: str) -> None:
    model = net(dtype=dtype)
    graft = stir(gw.graft(model, method, also_train=["norm"] if method.id != "norm_affine" else []))
    before, out = picture(model), model(tokens())
    mine = {k: bits(v) for k, v in graft.tensors().items()}
    for _ in range(3):
        graft.merge(keep)
        assert graft.merged and graft.spec()["merged"]
        assert picture(model)["keys"] == before["keys"]
        changed = [n for n, t in picture(model)["tensors"].items() if t != before["tensors"][n]]
        assert changed and not any("_graft" in n for n in changed)
        graft.unmerge()
        assert picture(model) == before
    assert torch.equal(model(tokens()), out)
    assert {k: bits(v) for k, v in graft.tensors().items()} == mine


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_graft_then_remove_is_identity(method: Any, dtype: torch.dtype) -> None:
    model = net(dtype=dtype)
    before = picture(model)
    graft = stir(gw.graft(model, method))
    graft.merge()
    graft.unmerge()
    train(model, graft, lambda: model(tokens()))
    model.eval()
    graft.remove()
    assert picture(model) == before


def test_the_base_is_bit_equal_after_training_with_weight_decay(method: Any) -> None:
    for dtype in DTYPES:
        model = net(dtype=dtype)
        before = picture(model)["tensors"]
        graft = gw.graft(model, method)
        train(model, graft, lambda m=model: m(tokens()), steps=5)  # type: ignore[misc]
        after = picture(model)["tensors"]
        assert {n: (t[0], t[3]) for n, t in after.items() if n in before} == {
            n: (t[0], t[3]) for n, t in before.items()
        }


def test_merged_forward_equals_forward(method: Any) -> None:
    model = net(dtype=torch.float64)
    graft = stir(gw.graft(model, method))
    out = model(tokens())
    graft.merge()
    close(model(tokens()), out, 1e-12)
    with pytest.raises(gw.GraftError, match="merged already"):
        graft.merge()


class Tied(nn.Module):
    """A small language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 9, bias=False)
        self.lm_head.weight = self.embed.weight  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lm_head(self.fc(self.embed(x)))
        return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("which", ["lora", "dora", "ia3", "diablo"])
def test_tied_weights(dtype: torch.dtype, keep: str, which: str) -> None:
    torch.manual_seed(0)
    model = Tied().to(dtype)
    x = torch.arange(9)
    embedded = model.embed(x)
    before, keys = picture(model), list(dict(model.named_parameters()))
    graft = stir(gw.graft(model, METHODS[which], sites="lm_head"))
    assert model.lm_head.weight is model.embed.weight
    assert torch.equal(model.embed(x), embedded)  # that use alone changes
    out = model(x)
    graft.merge(keep)
    assert model.lm_head.weight is not model.embed.weight
    assert torch.equal(model.embed(x), embedded)
    close(model(x).float(), out.float(), 3e-2 if dtype != torch.float32 else 1e-5)
    graft.unmerge()
    assert model.lm_head.weight is model.embed.weight
    assert torch.equal(model(x), out)
    graft.remove()
    assert picture(model) == before
    assert list(dict(model.named_parameters())) == keys


@pytest.mark.parametrize("keep", [*KEEPS, False])
def test_both_of_a_tied_pair(keep: Any) -> None:
    torch.manual_seed(0)
    model = Tied().double()
    x = torch.arange(9)
    graft = stir(gw.graft(model, gw.LoRA(2), sites=["embed", "lm_head"]))
    out = model(x)
    graft.merge(keep)
    close(model(x), out, 1e-12)
    assert model.lm_head.weight is not model.embed.weight
    if keep is not False:
        graft.unmerge()
        assert model.lm_head.weight is model.embed.weight
        assert torch.equal(model(x), out)


def test_tensors_that_share_memory_without_being_one_object() -> None:
    x = torch.arange(9)
    for keep in (*KEEPS, False):
        twin = Tied().double()
        twin.lm_head.weight = nn.Parameter(twin.embed.weight.data)  # another object, same memory
        embedded = twin.embed(x)
        assert twin.lm_head.weight.data_ptr() == twin.embed.weight.data_ptr()
        graft = stir(gw.graft(twin, gw.LoRA(2), sites="lm_head"))
        graft.merge(keep)
        assert torch.equal(twin.embed(x), embedded), keep
        if keep is not False:
            graft.unmerge()
            assert torch.equal(twin.lm_head.weight, twin.embed.weight)


def test_keep_false_writes_in_place_and_is_final() -> None:
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    out, weight = model(tokens()), model.head.weight
    graft.merge(keep=False)
    assert model.head.weight is weight
    close(model(tokens()), out, 1e-5)
    with pytest.raises(gw.GraftError, match="keep=False"):
        graft.unmerge()
    merged = model(tokens())
    graft.remove()
    assert torch.equal(model(tokens()), merged)
    assert type(model.head) is nn.Linear


def test_while_merged_what_would_mislead_is_refused() -> None:
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    other = gw.graft(model, gw.LoRA(2), name="other")
    graft.merge()
    for action in (
        graft.remove,
        other.remove,
        other.merge,
        other.unmerge,
        graft.base_tensors,
        lambda: graft.off().__enter__(),
        lambda: gw.activate(model, "other"),
        lambda: gw.graft(model, gw.LoRA(2), name="third"),
    ):
        with pytest.raises(gw.GraftError, match="merged"):
            action()
    graft.unmerge()
    assert dict(gw.get(model, "other").entry.sites) is not None


def test_unmerge_restores_what_was_switched_on() -> None:
    model = net()
    a = stir(gw.graft(model, gw.LoRA(2), name="a"))
    stir(gw.graft(model, gw.IA3(), name="b"), seed=2)
    gw.activate(model, {"a": 0.5, "b": 0.25})
    out = model(tokens())
    a.merge()
    a.unmerge()
    assert torch.equal(model(tokens()), out)


@pytest.mark.parametrize("keep", ["on", "", None, True, 0.5, "Disk"])
def test_an_unknown_place_is_refused(keep: Any) -> None:
    model = net()
    graft = gw.graft(model, gw.LoRA(2))
    with pytest.raises(gw.GraftError, match="keep must be one of"):
        graft.merge(keep)


def test_activation_methods_refuse_to_merge() -> None:
    model = net()
    graft = gw.graft(model, gw.AdaptFormer(2), sites="head")
    before = picture(model)
    with pytest.raises(gw.GraftError, match="activations"):
        graft.merge()
    assert picture(model) == before
    with pytest.raises(gw.GraftError, match="not merged"):
        graft.unmerge()
    mixed = net()
    graft = gw.graft(mixed, gw.LoRA(2), overrides={"head": gw.AdaptFormer(2)})
    with pytest.raises(gw.GraftError, match="head"):
        graft.merge()


def test_a_model_that_moves_while_merged() -> None:
    model = net()
    reference = copy.deepcopy(model).double()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    for keep in KEEPS:
        graft.merge(keep)
        model.double()
        graft.unmerge()
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert base_bits(model) == base_bits(reference)
        model.float()
        reference = copy.deepcopy(reference).float().double()


def test_memory_format_survives() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3)).to(memory_format=torch.channels_last)
    strides = model[0].weight.stride()
    assert strides != torch.empty(6, 4, 3, 3).stride()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    before = picture(model)
    for keep in KEEPS:
        graft.merge(keep)
        assert model[0].weight.stride() == strides
        graft.unmerge()
        assert model[0].weight.stride() == strides
        assert picture(model) == before


def test_a_merged_model_saves_and_loads_as_a_plain_one() -> None:
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    out = model(tokens())
    graft.merge()
    plain = net(seed=5)
    plain.load_state_dict(model.state_dict())
    close(plain(tokens()), out, 1e-5)


def test_bias_from_nothing_comes_and_goes() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    before = picture(model)
    graft = stir(gw.graft(model, gw.BitFit(new_biases=True)))
    x = torch.randn(2, 4)
    out = model(x)
    graft.merge()
    assert model[0].bias is not None
    close(model(x), out, 1e-6)
    graft.unmerge()
    assert model[0].bias is None
    graft.remove()
    assert picture(model) == before
