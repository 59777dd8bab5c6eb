"""Prefix tuning's numbered invariants."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_checks import moved
from method_by_hand_edits import prefix as by_hand
from method_invariants import invariant
from method_layers_attention import SelfAttention
from torch import Tensor, nn

import graftwork as gw
from tests.core.test_core_transformers import gpt2, ids, llama, t5

M = 3


def attention(**fields: Any) -> SelfAttention:
    torch.manual_seed(0)
    given = {"width": 8, "heads": 4, "kv_heads": 2, "size": 3, "mask": "none", "fused": False}
    return SelfAttention(**given | fields).double()


def x_of(n: int = 5, rows: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(rows, n, 8, generator=rng, dtype=torch.float64)


def prefixed(module: nn.Module, size: float = 0.5, **fields: Any) -> gw.Graft:
    g = gw.graft(module, gw.PrefixTuning(M, **fields))
    moved(g, size)
    return g


@invariant("prefix", 1)
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "row"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_forward_is_the_softmax_by_hand(mask: str, kv_heads: int) -> None:
    base, x = attention(mask=mask, kv_heads=kv_heads), x_of()
    model = copy.deepcopy(base)
    g = prefixed(model)
    hand = by_hand(g.method, base, g.tensors())
    torch.testing.assert_close(model(x), hand.forward(x), rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="prefix"):
        g.merge()
    with g.off():
        assert torch.equal(model(x), base(x))


@invariant("prefix", 2)
def test_far_keys_leave_the_base_and_equal_values_stay() -> None:
    base, x = attention(), x_of()
    model = copy.deepcopy(base)
    g = prefixed(model)
    with torch.no_grad():
        base.q_proj.weight.zero_()
        base.q_proj.bias.fill_(1.0)  # every query is the vector of ones
        model.load_state_dict(base.state_dict())
        for name, p in g.named_parameters():
            if name == "K":
                p.fill_(-1000.0)
    # some processors add a row with zeros behind it in another order
    torch.testing.assert_close(model(x), base(x), rtol=0, atol=1e-15)
    with torch.no_grad():
        for m in (base, model):
            m.v_proj.weight.zero_()
            m.v_proj.bias.fill_(0.7)
        for p in g.parameters():
            p.fill_(0.7)
    torch.testing.assert_close(model(x), base(x), rtol=0, atol=1e-12)


@invariant("prefix", 5)
def test_the_output_is_a_mixture_of_the_base_and_the_prefix_alone() -> None:
    base, x = attention(heads=1, kv_heads=1), x_of()
    model = copy.deepcopy(base)
    t = prefixed(model).tensors()
    for m in (base, model):
        m.out_proj = nn.Identity()
    q, k = base.q_proj(x), base.k_proj(x)
    own, theirs = (torch.exp(q @ t["K"].T / math.sqrt(3)), torch.exp(q @ k.mT / math.sqrt(3)))
    share = own.sum(-1, keepdim=True) / (own.sum(-1, keepdim=True) + theirs.sum(-1, keepdim=True))
    alone = own @ t["V"] / own.sum(-1, keepdim=True)
    want = (1 - share) * base(x) + share * alone
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)


@invariant("prefix", 4, 6)
def test_count_and_start() -> None:
    model = attention(width=64, heads=8, kv_heads=4, size=32)
    g = gw.graft(model, gw.PrefixTuning(50, std=0.5), seed=0)
    assert sum(p.numel() for p in g.parameters()) == 50 * (128 + 128)
    for t in g.tensors().values():
        assert t.shape == (50, 128) and abs(float(t.mean())) < 0.02
        assert float(t.std()) == pytest.approx(0.5, rel=0.03)
    assert not g.method.starts_at_base
    model(torch.randn(2, 5, 64).double()).sum().backward()
    own = {id(p) for p in g.parameters()}
    assert all((p.grad is not None) == (id(p) in own) for p in model.parameters())
    zero = gw.graft(attention(), gw.PrefixTuning(2, std=0.0)).tensors()
    assert not any(bool(t.any()) for t in zero.values())


# -- models of transformers ---------------------------------------------------------------------------


def scores(model: Any, tokens: Tensor, **how: Any) -> Tensor:
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False} | how
    out = model.generate(tokens, output_scores=True, return_dict_in_generate=True, **how)
    return torch.stack(out.scores).nan_to_num(neginf=-1e3)


@invariant("prefix", 3)
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("build", [llama, lambda: llama(num_key_value_heads=1), gpt2, t5])
def test_a_cache_changes_nothing(build: Any, beams: int) -> None:
    model, tokens = build().double(), ids()
    how = {"attention_mask": torch.ones_like(tokens), "num_beams": beams}
    plain = scores(model, tokens, **how)
    g = prefixed(model)
    cached = scores(model, tokens, **how)
    assert cached.shape != plain.shape or float((cached - plain).abs().max()) > 1e-3
    other = scores(model, tokens, **how, use_cache=False)
    torch.testing.assert_close(other, cached, rtol=0, atol=1e-9)
    with g.off():
        assert torch.equal(scores(model, tokens, **how), plain)


@invariant("prefix", 3)
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_padding_changes_nothing() -> None:
    model, tokens = llama().double(), ids()
    prefixed(model)
    padded = tokens.clone()
    padded[1, :2], padded[1, 2:] = 0, tokens[1, :4]
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    both = scores(model, padded, attention_mask=mask)
    for row, alone in enumerate((tokens[:1], tokens[1:, :4])):
        one = scores(model, alone, attention_mask=torch.ones_like(alone))
        torch.testing.assert_close(both[:, row : row + 1], one, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_default_sites_are_the_attention_modules_and_all_are_reached() -> None:
    model = t5()
    g = gw.graft(model, gw.PrefixTuning(M))
    names = [s.name for s, _ in g.entry.sites]
    assert len(names) == 6 and all(n.endswith("Attention") for n in names)
    gw.check_reach(model, input_ids=ids(), labels=ids())
    for build, count in ((llama, 2), (gpt2, 2)):
        model = build()
        g = gw.graft(model, gw.PrefixTuning(M))
        assert len(g.entry.sites) == count
        gw.check_reach(model, ids())


@pytest.mark.parametrize("name", ["BertModel", "ViTModel", "timm"])
def test_encoders(name: str) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "timm":
        timm = pytest.importorskip("timm")
        model = timm.models.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0
        )
        x = torch.randn(2, 3, 16, 16)
    else:
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, name.replace("Model", "Config"))
        more = {"vocab_size": 64} if name == "BertModel" else {"image_size": 16, "patch_size": 8}
        model = getattr(transformers, name)(config(**small, **more, intermediate_size=24))
        x = ids() if name == "BertModel" else torch.randn(2, 3, 16, 16)
    g = gw.graft(model.eval(), gw.PrefixTuning(M))
    assert len(g.entry.sites) == 1 and all(t.shape == (M, 16) for t in g.tensors().values())
    gw.check_reach(model, x)


def test_a_prefix_beside_lora_on_the_projections_inside() -> None:
    model, x = attention(), x_of()
    outer = nn.ModuleDict({"attn": model})
    g = prefixed(outer)
    y = model(x)
    inner = gw.graft(outer, gw.LoRA(2), sites=["*.k_proj"], name="lora")
    moved(inner)
    gw.activate(outer, {"default": 1.0, "lora": 1.0})
    both = model(x)
    assert not torch.allclose(both, y)
    inner.merge()
    assert not torch.allclose(model(x), both)  # a merge switches all grafts off
    inner.unmerge()
    merged = copy.deepcopy(attention())
    with torch.no_grad():
        t = inner.tensors()
        merged.k_proj.weight += t["attn.k_proj.B"] @ t["attn.k_proj.A"]
    hand = by_hand(g.method, merged, {k.removeprefix("attn."): v for k, v in g.tensors().items()})
    torch.testing.assert_close(both, hand.forward(x), rtol=0, atol=1e-12)


def test_sums_of_prefixes_are_refused() -> None:
    model = nn.ModuleDict({"attn": attention()})
    for name in "ab":
        gw.graft(model, gw.PrefixTuning(M), name=name)
    with pytest.raises(gw.GraftError, match=r"weight 1"):
        gw.activate(model, {"a": 0.5})
    with pytest.raises(gw.GraftError, match=r"'a' owns attn .*'b' changes attn"):
        gw.activate(model, {"a": 1.0, "b": 1.0})


class Eager(nn.Module):
    """Attention by hand, as many times as asked."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.times = nn.Linear(8, 8), nn.Linear(8, 8), times

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        for _ in range(self.times):
            x = nn.functional.scaled_dot_product_attention(x, self.k_proj(x), self.v_proj(x))
        return x.squeeze(1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(8, 8)), "prefix finds no default site in Sequential"),
        (nn.Sequential(nn.MultiheadAttention(8, 2)), "MultiheadAttention is one fused function"),
    ],
)
def test_models_without_attention_are_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        gw.graft(model, gw.PrefixTuning(M))
    assert not gw.grafts(model)


def test_attention_of_another_kind_is_refused() -> None:
    for times, words in ((0, "0 calls of .*attn_implementation='sdpa'"), (2, "2 calls of ")):
        model = Eager(times)
        gw.graft(model, gw.PrefixTuning(M))
        with pytest.raises(gw.GraftError, match=words):
            model(torch.randn(2, 5, 8))
    wide = nn.ModuleDict({"qkv": nn.Linear(8, 20)})
    with pytest.raises(gw.GraftError, match="not told by its shape"):
        gw.graft(nn.Sequential(wide), gw.PrefixTuning(M), sites=["0"])
    flat = Eager(1)
    gw.graft(flat, gw.PrefixTuning(M))
    with pytest.raises(gw.GraftError, match="are not heads of 8 features"):
        flat(torch.randn(5, 8))


def test_saves_and_loads(tmp_path: Path) -> None:
    model, x = attention(), x_of()
    g = prefixed(model)
    gw.save(g, tmp_path / "prefix")
    fresh = attention()
    gw.load(fresh, tmp_path / "prefix")
    assert torch.equal(fresh(x), model(x))
    with pytest.raises(gw.GraftError, match="does not fit"):
        gw.load(nn.Linear(8, 8), tmp_path / "prefix")
