"""Several grafts in one pass: outputs and gradients of each row are those of its graft alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.recognise import recognise
from graftwork.tenants import Mix, Segments, mixed
from graftwork.tenants.streams import Stream
from tests.core.core_helpers import stir
from tests.tenants.tenants_kit import METHODS, clear, compare, grads, grafted, net


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, Any], Segments, tuple[int, ...]]:
    """Ranks, scales, runs of rows (empty ones, and several of one task, too) and axes between rows and features."""
    count = draw(st.integers(1, 5))
    methods = {
        f"t{i}": gw.LoRA(draw(st.integers(1, 5)), alpha=draw(st.sampled_from([None, 0.5, 3.0])))
        for i in range(count)
    }
    runs = draw(
        st.lists(
            st.tuples(st.sampled_from([*methods, ""]), st.integers(0, 70)), min_size=1, max_size=7
        )
    )
    runs.append((draw(st.sampled_from(list(methods))), draw(st.integers(1, 3))))
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    return methods, Segments(tuple(n for n, _ in runs), tuple(k for _, k in runs)), lead


@settings(max_examples=120)
@given(layouts(), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_factors_of_unequal_rank_on_any_rows(
    case: tuple[dict[str, Any], Segments, tuple[int, ...]], ins: int, outs: int, bias: bool
) -> None:
    methods, segments, lead = case
    methods = {n: m.with_fields(rank=min(m.rank, ins, outs)) for n, m in methods.items()}
    torch.manual_seed(0)
    model = grafted(nn.Sequential(nn.Linear(ins, outs, bias=bias)).double(), methods)
    x = torch.randn(segments.rows, *lead, ins, dtype=torch.float64)
    compare(model, segments, x)
    base = nn.functional.linear(x, model[0].weight, model[0].bias)
    with mixed(model, segments):
        y = model(x)
    for run in segments.runs:
        if run.name == "":
            assert torch.allclose(y[run.start : run.stop], base[run.start : run.stop], atol=1e-12)


@settings(max_examples=40)
@given(st.permutations(list(METHODS)), st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_methods_of_every_kind_mixed_in_one_batch(names: Sequence[str], sizes: list[int]) -> None:
    model = grafted(net(), METHODS).eval()
    segments = Segments((*names, "lora"), (*sizes, 1))
    compare(model, segments, torch.randn(segments.rows, 3, 6, dtype=torch.float64))


def test_dropout_of_a_task_whose_rows_lie_apart_is_as_alone() -> None:
    """It shares the others' products; what it drops is what it would drop alone."""
    methods = {
        "dropped": gw.LoRA(2, alpha=3, dropout=0.4),
        "lora": gw.LoRA(3),
        "dora": gw.DoRA(2, dropout=0.2),
    }
    model = grafted(net(), methods).train()
    segments = Segments(("dropped", "lora", "dora", "dropped", ""), (2, 1, 2, 1, 1))
    x = torch.randn(7, 3, 6, dtype=torch.float64, requires_grad=True)
    streams = {n: Stream(i) for i, n in enumerate(methods)}
    with Mix(model, streams).on(segments) as mix:
        y = model(x)
        [state] = [s for s in mix.recipe(segments.tasks).sites.values() if s.grafts is model.up._graft]  # type: ignore[union-attr]  # fmt: skip
        assert set(state.grouped) == {"dropped", "lora"} and set(state.branches) == {"dora"}
    y.square().sum().backward()
    found, got = {n: [g.clone() for g in grads(model, n) if g is not None] for n in methods}, x.grad
    assert got is not None
    clear(model)
    for i, name in enumerate(methods):
        gw.activate(model, name)
        leaf = segments.take(x, name).detach().requires_grad_()
        torch.manual_seed(i)
        out = model(leaf)
        assert torch.allclose(out, segments.take(y, name), atol=1e-12), name
        out.square().sum().backward()
        assert leaf.grad is not None
        assert torch.allclose(leaf.grad, segments.take(got, name), rtol=1e-9, atol=1e-11), name
        for a, b in zip(found[name], grads(model, name), strict=True):
            assert b is not None and torch.allclose(a, b, rtol=1e-9, atol=1e-11), name


def test_only_a_change_that_is_factors_of_a_dropped_input_says_so() -> None:
    class Louder(gw.LoRA):
        def change(self, geo: Any, p: Any, c: Any) -> Tensor:
            return 2 * super().change(geo, p, c)

    layer = nn.Linear(8, 8)
    for method, says in (
        (gw.LoRA(2, dropout=0.1), True),
        (gw.DoRA(2, dropout=0.1), False),
        (Louder(2, dropout=0.1), False),
        (gw.DiaBlo(2, dropout=0.1), False),
    ):
        geo = recognise(layer)
        assert isinstance(geo, Geometry)
        start = method.start(geo, layer.weight, layer.bias)
        assert (method.dropped_factors(geo, start) is not None) == says, method


def test_packed_tokens_are_rows_too() -> None:
    model = grafted(net(), {n: METHODS[n] for n in ("lora", "ia3", "adapter", "rslora")}).eval()
    segments = Segments(("lora", "ia3", "", "adapter", "lora", "rslora"), (5, 2, 1, 7, 3, 2))
    x = torch.randn(1, segments.rows, 6, dtype=torch.float64)
    with mixed(model, segments):
        y = model(x)
    for name in segments.tasks:
        gw.activate(model, name)
        assert torch.allclose(model(x)[0][where(segments, name)], segments.take(y, name))


def where(segments: Segments, name: str) -> Tensor:
    return torch.cat([torch.arange(r.start, r.stop) for r in segments.runs_of(name)])


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.first = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens).permute(0, 3, 1, 2)
        out: Tensor = self.up(torch.relu(self.norm(self.first(h))))
        return out


def test_convolutions_embeddings_and_batch_norm_in_eval_mode() -> None:
    torch.manual_seed(0)
    model = Convolutions().double()
    model(torch.randint(11, (4, 5, 5)))
    methods = {"a": gw.LoRA(2), "b": gw.DoRA(2), "c": gw.IA3(), "d": gw.DiaBlo(2)}
    for i, (name, method) in enumerate(methods.items()):
        stir(gw.graft(model, method, sites=["embed", "first", "up"], name=name, seed=i) if name != "d"
             else gw.graft(model, method, name=name, seed=i), 0.2, seed=i)  # fmt: skip
    norms = gw.graft(model, gw.NormAffine(), name="e")
    stir(norms, 0.2)
    segments = Segments(("a", "b", "c", "a", "d", "e"), (1, 2, 1, 1, 2, 1))
    x = torch.randint(11, (segments.rows, 5, 5), generator=torch.Generator().manual_seed(1))
    with mixed(model, segments):
        y = model(x)
    for name in segments.tasks:
        gw.activate(model, name)
        assert torch.allclose(model(segments.take(x, name)), segments.take(y, name), atol=1e-12)


def test_modules_that_read_weights_without_calling_layers_run_once_for_each_task() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    methods = {"a": gw.LoRA(2), "b": gw.DoRA(2), "c": gw.IA3(), "d": gw.NormAffine()}
    model = grafted(model, methods)
    segments = Segments(("a", "", "b", "c", "a", "d"), (1, 1, 2, 1, 1, 2))
    compare(model, segments, torch.randn(segments.rows, 5, 8, dtype=torch.float64))


def test_attention_prefixes_beside_factors() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=40, max_position_embeddings=32, use_cache=False,
    )  # fmt: skip
    model = transformers.LlamaModel(config).double().requires_grad_(False)
    grafted(model, {"p": gw.PrefixTuning(length=3, std=0.5), "l": gw.LoRA(2), "n": gw.NormAffine()})
    segments = Segments(("l", "p", "n", "p"), (2, 1, 1, 1))
    tokens = torch.randint(40, (5, 6))
    mask = torch.ones(5, 6, dtype=torch.long)
    mask[0, 4:] = mask[2, 5:] = 0
    with mixed(model, segments):
        y = model(tokens, attention_mask=mask).last_hidden_state
    for name in segments.tasks:
        gw.activate(model, name)
        mine = model(
            segments.take(tokens, name), attention_mask=segments.take(mask, name)
        ).last_hidden_state
        real = segments.take(mask, name).bool()
        assert torch.allclose(mine[real], segments.take(y, name)[real], atol=1e-12), name


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    model = grafted(
        nn.Sequential(nn.Linear(3, 4)).double(), {"a": gw.LoRA(2, alpha=3), "b": gw.LoRA(1)}
    )
    segments = Segments(("a", "b", "a"), (2, 1, 1))

    def of_input(x: Tensor) -> Tensor:
        with mixed(model, segments):
            out: Tensor = model(x)
        return out

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of_input, (x,))
    weights = torch.randn(4, 4, dtype=torch.float64)
    clear(model)
    (of_input(x) * weights).sum().backward()
    for name in segments.tasks:
        for p in gw.get(model, name).parameters():
            assert p.grad is not None
            flat, far = p.detach().view(-1), 1e-6
            for i in range(flat.numel()):
                with torch.no_grad():
                    flat[i] += far
                    above = (of_input(x) * weights).sum()
                    flat[i] -= 2 * far
                    below = (of_input(x) * weights).sum()
                    flat[i] += far
                assert abs(float((above - below) / (2 * far) - p.grad.view(-1)[i])) < 1e-7


def test_equal_factors_are_one_graft_on_the_whole_batch_and_zero_factors_are_the_base() -> None:
    model = net()
    one = stir(gw.graft(model, gw.LoRA(3, alpha=2), name="one"), 0.3)
    for name in ("two", "three"):
        gw.graft(model, gw.LoRA(3, alpha=2), name=name).load_tensors(one.tensors())
    for name in ("x", "y"):
        gw.graft(model, gw.LoRA(2), name=name)  # B = 0
    x = torch.randn(6, 3, 6, dtype=torch.float64)
    gw.activate(model, "one")
    whole = model(x)
    with mixed(model, Segments(("one", "two", "three"), (3, 1, 2))):
        assert torch.allclose(model(x), whole, rtol=0, atol=1e-13)
    gw.activate(model, None)
    base = model(x)
    with mixed(model, Segments(("x", "y", ""), (2, 3, 1))):
        assert torch.equal(model(x), base)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 1, 4), (40, 33, 7)])
def test_what_is_not_finite_stays_with_its_task(sizes: tuple[int, ...]) -> None:
    """Every bit of the others' outputs and gradients, with NaN and infinity in one task's rows and factors."""
    methods = {"a": gw.LoRA(2), "bad": gw.LoRA(3), "c": gw.LoRA(1)}
    segments = Segments(tuple(methods), sizes)
    seen = []
    for broken in (False, True):
        model = grafted(net(), methods)
        x = torch.randn(segments.rows, 6, generator=torch.Generator().manual_seed(0)).double()
        if broken:
            segments.take(x, "bad")[0, 0] = torch.inf
            with torch.no_grad():
                next(iter(gw.get(model, "bad").parameters()))[0] = torch.nan
        with mixed(model, segments):
            y = model(x)
        y.square().sum().backward()
        others = ("a", "c")
        seen.append([segments.take(y, n) for n in others] + [g for n in others for g in grads(model, n)])  # fmt: skip
        if broken:
            assert not torch.isfinite(segments.take(y, "bad")).all()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
