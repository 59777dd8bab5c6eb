"""Alfa's numbered invariants."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.starts import cache

FORMS = ["attention", "diagonal", "free"]
LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 10), (4, 6)),
    (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2), (2, 4, 9, 9)),
    (nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), (2, 4, 7, 7)),
    (nn.Conv3d(6, 9, 3, groups=3), (1, 6, 5, 5, 5)),
    (nn.ConvTranspose3d(6, 9, 2, groups=3, stride=2), (1, 6, 3, 3, 3)),
]


def moved(g: gw.Graft, size: float = 0.5) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


def filters(seed: int = 0, groups: int = 1) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(4, 6, 3, padding=1, groups=groups).double()


def picture(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@invariant("alfa", 1)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_start_is_the_base(
    layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, form: str
) -> None:
    base = copy.deepcopy(layer).to(dtype)
    model, x = copy.deepcopy(base), torch.randn(shape).to(dtype)
    g = gw.graft(model, gw.Alfa(3, form=form))
    assert g.method.starts_at_base and torch.equal(model(x), base(x))
    g.merge()
    assert torch.equal(model.weight, base.weight)
    g.unmerge()
    moved(g)
    assert not torch.equal(model(x), base(x))


@invariant("alfa", 1)
@pytest.mark.parametrize("rank", [2, 3])
def test_the_frozen_factors_are_the_truncated_svd_of_each_group(rank: int) -> None:
    layer = filters(groups=2)
    t = gw.graft(copy.deepcopy(layer), gw.Alfa(rank)).tensors()
    for j in range(2):
        w = layer.weight.detach()[3 * j : 3 * j + 3].flatten(1)
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        own = t["U"][3 * j : 3 * j + 3] @ torch.diag(t["S"][j])
        own = own @ t["V"][j * rank : (j + 1) * rank].flatten(1)
        want = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
        torch.testing.assert_close(own, want, rtol=0, atol=1e-12)
        energy = s[:rank].square().sum() / s.square().sum()
        off = ((w - own).norm() / w.norm()) ** 2
        assert float(off) == pytest.approx(float(1 - energy), abs=1e-12)


def test_a_gate_off_zero_does_not_start_at_the_base_and_says_so() -> None:
    layer = filters()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.Alfa(4, gate=0.01))
    assert not g.method.starts_at_base and not torch.equal(model(picture()), layer(picture()))
    model(picture()).square().sum().backward()
    assert all(bool(p.grad.any()) for p in g.parameters())  # nothing waits for the gate
    assert gw.Alfa(4, form="diagonal", gate=0.01).starts_at_base
    assert float(g.tensors()["gate"]) == 0.01 and g.tensors()["gate"].shape == (1,)


def test_queries_and_keys_start_uniform_and_apart() -> None:
    model = nn.Linear(400, 300)
    t = gw.graft(model, gw.Alfa(2, width=50), seed=0).tensors()
    for name in ("query", "key"):
        values, bound = t[name], 1 / math.sqrt(400)
        assert float(values.abs().max()) <= bound and abs(float(values.mean())) < 0.02 * bound
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not torch.equal(t["query"], t["key"])
    t = gw.graft(nn.Linear(9, 8), gw.Alfa(3, form="diagonal")).tensors()
    assert torch.equal(t["e"], torch.zeros(1, 3)) and torch.equal(t["gate"], torch.ones(1))


def change_by_hand(g: gw.Graft, groups: int) -> Tensor:
    """U (N - I) S V^T for a convolution, group by group."""
    t, r, method = g.tensors(), g.method.rank, g.method
    parts = []
    for j in range(groups):
        s, v = t["S"][j], t["V"][j * r : (j + 1) * r].flatten(1)
        if method.form == "free":
            n = torch.diag(1 + t["n"][j])
        elif method.form == "diagonal":
            n = torch.diag(1 + t["gate"] * (r * t["e"][j].softmax(0) - 1))
        else:
            p = torch.diag(s.sqrt()) @ v
            mix = torch.softmax((p @ t["query"]) @ (p @ t["key"]).T / method.width**0.5, 1)
            n = torch.eye(r) + t["gate"] * (mix - torch.eye(r))
        u = t["U"].chunk(groups)[j]
        parts.append(u @ (n - torch.eye(r)) @ torch.diag(s) @ v)
    return torch.cat(parts)


@invariant("alfa", 2)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 2])
def test_forward_is_the_equation_and_merges(form: str, groups: int) -> None:
    layer, x = filters(groups=groups), picture()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.Alfa(3, form=form, width=2))
    moved(g)
    with torch.no_grad():
        weight = layer.weight + change_by_hand(g, groups).reshape(layer.weight.shape)
        want = nn.functional.conv2d(x, weight, layer.bias, padding=1, groups=groups)
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-11)
    g.merge()
    torch.testing.assert_close(model.weight, weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-11)


@invariant("alfa", 2, 6)
@pytest.mark.parametrize("form", FORMS)
def test_the_compressed_form_is_the_dense_layer_without_the_rest(form: str) -> None:
    layer, x = filters(), picture()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.Alfa(3, form=form))
    moved(g)
    t = g.tensors()
    a, b = g.method.compressed(t)
    assert a.numel() + b.numel() == 3 * (4 * 9 + 6)
    rest = layer.weight.flatten(1) - t["U"] @ torch.diag(t["S"][0]) @ t["V"].flatten(1)
    with torch.no_grad():
        g.merge()
        dense = model.weight - rest.reshape(layer.weight.shape)
        want = nn.functional.conv2d(x, dense, layer.bias, padding=1)
        two = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.Conv2d(3, 6, 1))
        for mine, value in zip(two.parameters(), (a, b, layer.bias), strict=True):
            mine.data = value
        torch.testing.assert_close(two(x), want, rtol=0, atol=1e-11)


@invariant("alfa", 3)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0.0, 3.0))
def test_rows_of_the_attention_sum_to_one(seed: int, size: float) -> None:
    g = gw.graft(filters(seed, groups=2), gw.Alfa(3, width=4), seed=seed)
    moved(g, size)
    t = g.method.attention(g.tensors())
    assert t.shape == (2, 3, 3) and bool((t > 0).all())
    torch.testing.assert_close(t.sum(-1), torch.ones(2, 3, dtype=t.dtype))


@invariant("alfa", 3)
def test_free_at_full_rank_is_singular_value_fine_tuning_and_nothing_leaves_the_rest() -> None:
    layer = filters()
    u, s, vh = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    other = torch.linspace(2.0, 0.1, 6, dtype=torch.float64)
    for rank, values, want in (
        (6, other, u @ torch.diag(other) @ vh),
        (2, torch.zeros(2), u[:, 2:] @ torch.diag(s[2:]) @ vh[2:]),
    ):
        model = copy.deepcopy(layer)
        g = gw.graft(model, gw.Alfa(rank, form="free"))
        with torch.no_grad():
            dict(g.named_parameters())["n"].copy_(values / s[:rank] - 1)
        g.merge()
        torch.testing.assert_close(model.weight.flatten(1), want, rtol=0, atol=1e-12)


@invariant("alfa", 4)
@pytest.mark.parametrize("form", FORMS)
def test_only_the_attention_trains(form: str) -> None:
    model = nn.Sequential(filters().float(), nn.BatchNorm2d(6))
    base = copy.deepcopy(model)
    g = gw.graft(model, gw.Alfa(3, form=form))
    names = {"attention": {"query", "key", "gate"}, "diagonal": {"e", "gate"}, "free": {"n"}}
    trained = {f"0.{n}" for n in names[form]}
    assert {n for n, _ in g.named_parameters()} == trained
    before = {n: t.clone() for n, t in g.tensors().items()}
    optimizer = torch.optim.Adam(g.parameters(), lr=0.1)
    model.eval()
    for _ in range(3):
        optimizer.zero_grad()
        model(picture().float()).square().sum().backward()
        assert model[0].weight.grad is None
        optimizer.step()
    for name, t in g.tensors().items():
        assert torch.equal(t, before[name]) == (name not in trained), name
    for mine, theirs in zip(model.state_dict().values(), base.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@invariant("alfa", 5)
@pytest.mark.parametrize("form", ["diagonal", "free"])
def test_signs_of_a_pair_do_not_matter_to_the_diagonal_forms(form: str) -> None:
    model, x = filters(), picture()
    g = gw.graft(model, gw.Alfa(3, form=form))
    moved(g)
    y, t = model(x), g.tensors()
    for name, axis in (("U", 1), ("V", 0)):
        flip = torch.tensor([1.0, -1.0, 1.0]).reshape(
            [-1 if i == axis else 1 for i in range(t[name].dim())]
        )
        t[name] = t[name] * flip
    g.load_tensors(t)
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)


@invariant("alfa", 5)
def test_a_start_repeats_and_a_layer_is_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_stores", {})
    layer, found = filters(seed=11), []
    real, count = torch.linalg.svd, []
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: count.append(1) or real(*a, **k))
    for _ in range(2):
        found.append(gw.graft(copy.deepcopy(layer), gw.Alfa(3), seed=5).tensors())
    assert len(count) == 1
    assert all(torch.equal(t, found[1][n]) for n, t in found[0].items())
    top = found[0]["U"].abs().argmax(0)
    assert bool((found[0]["U"][top, torch.arange(3)] > 0).all())


@invariant("alfa", 6)
@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"width": 5}, 2 * 5 * 2 * 9 + 1),
        ({"form": "diagonal"}, 2 * 3 + 1),
        ({"form": "free"}, 2 * 3),
    ],
)
def test_parameters(fields: dict[str, Any], count: int) -> None:
    g = gw.graft(filters(groups=2), gw.Alfa(3, **fields))
    assert sum(p.numel() for p in g.parameters()) == count


@invariant("alfa", 7)
@pytest.mark.parametrize("form", FORMS)
def test_the_anchor_is_the_squared_distance_of_n(form: str) -> None:
    model = nn.Sequential(filters())
    g = gw.graft(model, gw.Alfa(3, form=form, anchor=0.5))
    for size in (0.0, 0.4):
        moved(g, size)
        with gw.extra_loss(model) as extra:
            model(picture())
            loss = extra()
        t = {n.removeprefix("0."): v for n, v in g.tensors().items()}
        n = torch.linalg.lstsq(t["U"], change_by_hand_of(t, g)).solution
        n = n @ t["V"].flatten(1).T / t["S"][0]
        torch.testing.assert_close(loss.detach(), 0.5 * n.square().sum(), rtol=1e-8, atol=1e-12)
    loss.backward()
    assert all(bool(p.grad.any()) for p in g.parameters())
    model.eval()
    with gw.extra_loss(model) as extra:
        model(picture())
        assert float(extra().detach()) == 0.0


def change_by_hand_of(t: dict[str, Tensor], g: gw.Graft) -> Tensor:
    class Plain:
        method = g.method

        def tensors(self) -> dict[str, Tensor]:
            return t

    return change_by_hand(Plain(), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": 0}, "Alfa.rank"),
        ({"rank": 1}, "Alfa.rank: attention over one component changes nothing"),
        ({"form": "both"}, "Alfa.form"),
        ({"width": 0}, "Alfa.width"),
        ({"gate": 2.0}, "Alfa.gate"),
        ({"anchor": -1.0}, "Alfa.anchor"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        gw.Alfa(**fields)


def test_bad_layers_are_refused_by_name() -> None:
    with pytest.raises(gw.GraftError, match=r"Alfa.rank = 2 is a rank above the layer's own, 1"):
        gw.graft(nn.Sequential(nn.Conv2d(6, 6, 3, groups=6)), gw.Alfa(2), sites=["0"])
    broken = nn.Sequential(nn.Conv2d(3, 6, 3))
    with torch.no_grad():
        broken[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(gw.GraftError, match="NaN or infinite"):
        gw.graft(broken, gw.Alfa(2))
    attention = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True))

    gw.graft(attention, gw.Alfa(2), sites=["0.out_proj"]).remove()
    with pytest.raises(gw.GraftError, match=r"set Alfa\.anchor to 0"):
        gw.graft(attention, gw.Alfa(2, anchor=0.1), sites=["0.out_proj"])
