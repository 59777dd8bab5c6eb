"""PiSSA's numbered invariants."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.starts import svd

LAYERS: list[tuple[nn.Module, tuple[int, ...], int]] = [
    (nn.Linear(6, 10), (4, 6), 3 * 6 + 10 * 3),
    (nn.Conv2d(4, 6, (3, 2)), (2, 4, 7, 7), 3 * 4 * 6 + 6 * 3),
    (nn.Conv3d(6, 9, 3, groups=3), (1, 6, 5, 5, 5), 3 * 2 * 27 + 9 * 1),
    (nn.ConvTranspose2d(6, 9, 2, groups=3), (1, 6, 5, 5), 3 * 2 * 4 + 9 * 1),
]


def moved(g: gw.Graft, size: float = 0.3) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


@invariant("pissa", 1, 4)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("layer", "shape", "count"), LAYERS)
def test_start_is_the_base_and_the_count_is_loras(
    layer: nn.Module, shape: tuple[int, ...], count: int, dtype: torch.dtype, training: bool
) -> None:
    base = copy.deepcopy(layer).to(dtype)
    model, x = copy.deepcopy(base).train(training), torch.randn(shape).to(dtype)
    g = gw.graft(model, gw.PiSSA(3, alpha=7.0, dropout=0.2))
    assert torch.equal(model(x), base(x))
    assert sum(p.numel() for p in g.parameters()) == count
    assert {n for n, _ in g.named_parameters()} == {"A", "B"}
    assert set(g.tensors()) == {"A", "B", "A0", "B0"}
    before = {n: t.clone() for n, t in g.tensors().items()}
    optimizer = torch.optim.AdamW(g.parameters(), lr=0.1)
    model(x).float().square().sum().backward()
    optimizer.step()
    for name, t in g.tensors().items():
        assert torch.equal(t, before[name]) == name.endswith("0")
    pairs = zip(model.state_dict().values(), base.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@invariant("pissa", 2)
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_forward_is_the_equation(alpha: float | None) -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.PiSSA(2, alpha=alpha))
    moved(g)
    t, s = g.tensors(), 1.0 if alpha is None else 3.0
    by_hand = x @ (layer.weight + s * (t["B"] @ t["A"] - t["B0"] @ t["A0"])).T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("pissa", 3)
@pytest.mark.parametrize("alpha", [0.01, None, 50.0])
def test_the_start_is_the_truncated_svd_for_every_scale(alpha: float | None) -> None:
    layer = nn.Linear(6, 9).double()
    method = gw.PiSSA(4, alpha=alpha)
    t = gw.graft(copy.deepcopy(layer), method).tensors()
    u, s, vh = torch.linalg.svd(layer.weight, full_matrices=False)
    want = u[:, :4] @ torch.diag(s[:4]) @ vh[:4]
    torch.testing.assert_close(method.scale * t["B0"] @ t["A0"], want, rtol=0, atol=1e-12)
    # the square root of the spectrum goes to either side
    torch.testing.assert_close(t["A0"].norm(dim=1), t["B0"].norm(dim=0))
    assert torch.equal(t["A"], t["A0"]) and torch.equal(t["B"], t["B0"])


@invariant("pissa", 3)
def test_each_group_of_a_convolution_has_its_own_triplets() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2).double()
    t = gw.graft(copy.deepcopy(layer), gw.PiSSA(4)).tensors()
    for j in range(2):
        w = layer.weight[3 * j : 3 * j + 3].flatten(1)
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        a, b = t["A0"][2 * j : 2 * j + 2].flatten(1), t["B0"][3 * j : 3 * j + 3].flatten(1)
        want = u[:, :2] @ torch.diag(s[:2]) @ vh[:2]
        torch.testing.assert_close(b @ a, want, rtol=0, atol=1e-12)


@invariant("pissa", 5)
def test_gradients_are_those_of_the_papers_form() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.PiSSA(2, alpha=3.0))
    for size in (0.0, 0.3):
        moved(g, size)
        g_tensors = g.tensors()
        a, b = (g_tensors[n].clone().requires_grad_() for n in "AB")
        rest = layer.weight.detach() - 1.5 * g_tensors["B0"] @ g_tensors["A0"]
        z = x.clone().requires_grad_()
        (z @ (rest + 1.5 * b @ a).T + layer.bias.detach()).pow(3).sum().backward()
        for p in g.parameters():
            p.grad = None
        y = x.clone().requires_grad_()
        model(y).pow(3).sum().backward()
        ours = {n: p.grad for n, p in g.named_parameters()}
        pairs = [(ours["A"], a.grad), (ours["B"], b.grad), (y.grad, z.grad)]
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@invariant("pissa", 6)
def test_a_reload_decomposes_nothing_and_gives_every_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))
    model, x = copy.deepcopy(layer), torch.randn(4, 6)
    g = gw.graft(model, gw.PiSSA(4))
    moved(g, 0.01)
    y = model(x)
    gw.save(g, tmp_path / "a")

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a reload decomposed a weight")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    monkeypatch.setattr(torch, "svd_lowrank", fail)
    monkeypatch.setattr(svd.cache, "store", fail)
    fresh = copy.deepcopy(layer)
    again = gw.load(fresh, tmp_path / "a")
    assert torch.equal(fresh(x), y)
    again.merge()
    torch.testing.assert_close(fresh(x), y, rtol=1e-5, atol=1e-6)
    again.unmerge()
    again.remove()
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), layer.parameters(), strict=True)
    )
    with pytest.raises(gw.GraftError, match="pissa keeps its change as a small difference"):
        gw.save(g, tmp_path / "b", dtype="bfloat16")


def decaying(m: int, n: int, seed: int = 0) -> Tensor:
    """A weight whose spectrum falls, as trained ones' do."""
    rng = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(m, min(m, n), generator=rng))
    v, _ = torch.linalg.qr(torch.randn(n, min(m, n), generator=rng))
    return u * torch.arange(1, min(m, n) + 1).pow(-0.7) @ v.T


@invariant("pissa", 7)
def test_the_randomised_svd_agrees_within_the_told_error() -> None:
    layer = nn.Linear(600, 560)
    with torch.no_grad():
        layer.weight.copy_(decaying(560, 600))
    w = layer.weight.detach().unsqueeze(0)
    full = svd.largest(w, 8, None)
    errors = []
    for niter in (0, 1, 4, 16):
        found = svd.largest(w, 8, niter)
        errors.append(found.error)
        # what a triplet leaves over bounds how far it is from a singular value (Weyl)
        assert (found.s - full.s).abs().max() <= found.error * full.s.norm() + 1e-6
    assert errors == sorted(errors, reverse=True) and errors[0] > 1e-3 > errors[2] > errors[3]
    assert full.error < 1e-5
    t = {k: gw.graft(copy.deepcopy(layer), gw.PiSSA(8, niter=k)).tensors() for k in (16, None)}
    product = {k: v["B0"] @ v["A0"] for k, v in t.items()}
    torch.testing.assert_close(product[16], product[None], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "method", "words"),
    [
        (nn.Linear(6, 3), gw.PiSSA(4), r"PiSSA.rank = 4 is a rank above the layer's own, 3"),
        (nn.Conv2d(4, 6, 3, groups=2), gw.PiSSA(3), r"the groups do not divide \(2 of them\)"),
        (nn.Conv2d(4, 6, 3, groups=2), gw.MiLoRA(8), "above the layer's own, 6"),
    ],
)
def test_a_rank_that_the_layer_has_not_is_refused(
    layer: nn.Module, method: gw.PiSSA | gw.MiLoRA, words: str
) -> None:
    model = nn.Sequential(layer)
    with pytest.raises(gw.GraftError, match=words):
        gw.graft(model, method, sites=["0"])
    assert type(model[0]) is type(layer)


def test_bad_settings_and_weights_are_refused_by_name() -> None:
    for bad in ({"alpha": 0.0}, {"alpha": -1.0}, {"niter": -1}, {"rank": 0}):
        (field,) = bad
        with pytest.raises(gw.GraftError, match=f"PiSSA.{field}"):
            gw.PiSSA(**bad)  # type: ignore[arg-type]
    model = nn.Sequential(nn.Linear(6, 6))
    with torch.no_grad():
        model[0].weight[2, 3] = float("nan")
    with pytest.raises(gw.GraftError, match=r"^0: the weight holds NaN or infinite values"):
        gw.graft(model, gw.PiSSA(2))
    assert type(model[0]) is nn.Linear


def test_the_start_moves_no_generator() -> None:
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    gw.graft(nn.Linear(600, 560, device="meta").to_empty(device="cpu").apply(_fill), gw.PiSSA(2))
    assert torch.equal(torch.rand(3), want)


def _fill(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.copy_(decaying(560, 600))
        layer.bias.zero_()
