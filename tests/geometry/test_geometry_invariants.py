"""The geometry room's numbered invariants."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graftwork as gw
import graftwork.geometry as geometry
from graftwork.geometry import Subspace, compare, principal_angles, span

CLAIMED: list[int] = []
HALF = math.pi / 2


def invariant(*numbers: int) -> Callable[[Any], Any]:
    def claim(test: Any) -> Any:
        CLAIMED.extend(numbers)
        return test

    return claim


def orthonormal(n: int, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64)).Q


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def batches(n_in: int, n_out: int, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, 2, 5, max(n_in, n_out), generator=generator)
    return [(x[:, :n_in], y[:, :n_out]) for x, y in drawn]


@invariant(1)
@settings(max_examples=25)
@given(n=st.integers(2, 30), data=st.data(), seed=st.integers(0, 999))
def test_itself_its_complement_and_symmetry(n: int, data: Any, seed: int) -> None:
    k, j = data.draw(st.integers(1, n - 1)), data.draw(st.integers(1, n))
    whole, other = orthonormal(n, n, seed), Subspace(orthonormal(n, j, seed + 1))
    one, rest = Subspace(whole[:, :k]), Subspace(whole[:, k:])
    assert principal_angles(one, one).abs().max() < 1e-6
    assert (principal_angles(one, rest) - HALF).abs().max() < 1e-6
    angles = principal_angles(one, other)
    assert len(angles) == min(k, j) and (angles.diff() >= 0).all()
    torch.testing.assert_close(angles, principal_angles(other, one), rtol=0, atol=1e-7)


@invariant(2)
@settings(max_examples=20)
@given(n=st.integers(4, 20), k=st.integers(1, 3), seed=st.integers(0, 999))
def test_bases_and_rotations_do_not_matter(n: int, k: int, seed: int) -> None:
    a, b = orthonormal(n, k, seed), orthonormal(n, 2, seed + 1)
    turned, rotation = orthonormal(k, k, seed + 2), orthonormal(n, n, seed + 3)
    angles = principal_angles(Subspace(a), Subspace(b))
    for x, y in ((a @ turned, b), (rotation @ a, rotation @ b)):
        other = principal_angles(Subspace(x), Subspace(y))
        torch.testing.assert_close(other, angles, rtol=0, atol=1e-7)


@invariant(3)
@settings(max_examples=30)
@given(angle=st.floats(0, HALF) | st.floats(1e-12, 1e-6), k=st.integers(1, 4))
def test_planted_angles_are_found(angle: float, k: int) -> None:
    both = orthonormal(20, 2 * k, k)
    one, apart = both[:, :k], both[:, k:]
    found = principal_angles(
        Subspace(one), Subspace(math.cos(angle) * one + math.sin(angle) * apart)
    )
    # small ones keep their digits: arccos alone would give 0 below 1e-8
    torch.testing.assert_close(found, torch.full_like(found, angle), rtol=1e-5, atol=1e-14)


def test_different_angles_between_one_pair_are_all_found() -> None:
    planted = torch.tensor([1e-9, 0.3, 0.7, 0.9, 1.5], dtype=torch.float64)
    both = orthonormal(20, 10, 0)
    one, apart = both[:, :5], both[:, 5:]
    other = one * planted.cos() + apart * planted.sin()
    found = principal_angles(Subspace(one), Subspace(other @ orthonormal(5, 5, 1)))
    torch.testing.assert_close(found, planted, rtol=1e-6, atol=1e-14)
    mean = geometry.overlap(Subspace(one), Subspace(other))
    assert mean == pytest.approx(float(planted.cos().square().mean()))


@invariant(4)
@settings(max_examples=20)
@given(n=st.integers(2, 12), seed=st.integers(0, 999))
def test_directions_and_nested_subspaces(n: int, seed: int) -> None:
    a, b = orthonormal(n, 1, seed), orthonormal(n, 1, seed + 1)
    (angle,) = principal_angles(Subspace(a), Subspace(-b))
    assert 0 <= angle <= HALF
    assert float(angle.cos()) == pytest.approx(abs(float(a.T @ b)), abs=1e-9)
    whole = orthonormal(n, n, seed)
    assert principal_angles(Subspace(whole[:, :1]), Subspace(whole[:, :2]))[0] < 1e-7


@invariant(5)
def test_input_side_lies_in_the_span_of_the_inputs() -> None:
    torch.manual_seed(0)
    inputs = orthonormal(10, 3, 0).float()
    model = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 4))
    data = [(x @ inputs.T, y) for x, y in batches(3, 4, 9)]
    found = geometry.gradient_subspaces(model, data, mse, sites=["0"], share=1.0)["0"]
    assert found.k == 3 and found.n == 10
    outside = found.basis - inputs.double() @ (inputs.double().T @ found.basis)
    assert outside.norm() < 1e-5
    with pytest.raises(gw.GraftError, match=r"0: span: k must lie in \[1, 3\]"):
        geometry.gradient_subspaces(model, data, mse, sites=["0"], k=4)


@invariant(6)
@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_larger_subspaces_meet_more_closely(seed: int) -> None:
    a, b = orthonormal(15, 8, seed), orthonormal(15, 3, seed + 1)
    smallest = [float(principal_angles(Subspace(a[:, :k]), Subspace(b))[0]) for k in range(1, 9)]
    assert all(x >= y - 1e-9 for x, y in itertools.pairwise(smallest))


@invariant(7)
@pytest.mark.parametrize(("n", "k", "j"), [(64, 8, 8), (30, 2, 5), (9, 9, 1), (1, 1, 1)])
def test_random_subspaces_are_at_the_null_level(n: int, k: int, j: int) -> None:
    null = geometry.null_level(n, k, j, draws=100, seed=1)
    drawn = [
        principal_angles(Subspace(orthonormal(n, k, 2 * i)), Subspace(orthonormal(n, j, 2 * i + 1)))
        for i in range(100)
    ]
    first = float(torch.stack([a[0].cos().square() for a in drawn]).mean())
    mean = float(torch.stack([a.cos().square().mean() for a in drawn]).mean())
    error = 4 / 10  # four standard errors of 100 draws, of both sides together
    assert abs(first - null.cosine2) <= error * null.cosine2_std * 2**0.5 + 1e-9
    assert abs(mean - null.overlap) <= error * null.overlap_std + 1e-9
    assert null == geometry.null_level(n, k, j, draws=100, seed=1)
    if (n, k) == (64, 8):
        assert null.cosine2 == pytest.approx(0.36, abs=0.03)  # 53 degrees


@invariant(8)
@settings(max_examples=25)
@given(
    alpha=st.floats(0.1, 5).flatmap(lambda a: st.sampled_from([a, -a])),
    beta=st.floats(-2, 2),
    angles=st.lists(st.integers(0, 90), min_size=3, max_size=9, unique=True),
)
def test_the_fit_returns_the_law(alpha: float, beta: float, angles: list[int]) -> None:
    radians = [math.radians(a) for a in angles]
    law = geometry.fit_forgetting_law(radians, [alpha * math.sin(t) ** 2 + beta for t in radians])
    assert law.alpha == pytest.approx(alpha, abs=1e-5) and law.beta == pytest.approx(beta, abs=1e-5)
    assert law.sign == math.copysign(1, alpha) and law.r == pytest.approx(law.sign, abs=1e-6)
    assert law.predict(0.3) == pytest.approx(alpha * math.sin(0.3) ** 2 + beta, abs=1e-5)
    assert max(map(abs, law.residuals)) < 1e-6


@pytest.mark.parametrize("points", [3, 8])
def test_the_interval_covers_and_noise_has_no_sign(points: int) -> None:
    random = np.random.default_rng(0)
    angles = np.radians(np.linspace(0, 90, points))
    covered, decided = 0, 0
    for i in range(200):
        noise = random.normal(size=points)
        law = geometry.fit_forgetting_law(
            angles, 2 * np.sin(angles) ** 2 + noise, draws=20_000, seed=i
        )
        covered += law.low <= 2 <= law.high
        decided += geometry.fit_forgetting_law(angles, noise, draws=20_000, seed=i).sign != 0
    assert 180 <= covered <= 199  # 190 expected, with a deviation of 3
    assert decided <= 20
    flat = geometry.fit_forgetting_law(angles, np.full(points, 0.3))
    assert flat.alpha == pytest.approx(0, abs=1e-12) and flat.r == 0.0


@invariant(9)
def test_scales_do_not_move_angles() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    tasks = [
        [
            geometry.gradient_subspaces(model, batches(8, 4, 12, seed), scaled, k=2)
            for scaled in (mse, lambda m, b: 10 * mse(m, b))
        ]
        for seed in (0, 1)
    ]
    plain, scaled = (compare(*pair) for pair in zip(*tasks, strict=True))
    for x, y in zip(plain.layers, scaled.layers, strict=True):
        assert x.angle == pytest.approx(y.angle, abs=1e-5) and x.weight == pytest.approx(y.weight)
    assert sum(x.weight for x in plain.layers) == pytest.approx(1.0)
    assert plain.closest.angle < max(x.angle for x in plain.layers)
    # one layer's gradients ten times as large, in both tasks
    louder = [{**t[0], "2": Subspace(t[0]["2"].basis, 100 * t[0]["2"].energy)} for t in tasks]
    other = compare(*louder)
    assert [x.angle for x in other.layers] == [x.angle for x in plain.layers]
    assert other.layers[1].weight > plain.layers[1].weight
    mean = sum(x.weight * x.cosine2 for x in plain.layers)
    assert plain.cosine2 == pytest.approx(mean)
    assert plain.excess == pytest.approx(
        mean - sum(x.weight * x.null.cosine2 for x in plain.layers)
    )


@invariant(10)
@settings(max_examples=25)
@given(n=st.integers(2, 9), m=st.integers(2, 9), rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_effective_rank(n: int, m: int, rank: int, seed: int) -> None:
    rank = min(rank, n, m)
    u, v = orthonormal(m, rank, seed), orthonormal(n, rank, seed + 1)
    assert geometry.effective_rank(u @ v.T) == pytest.approx(rank, abs=1e-6)
    mixed = u @ torch.diag(torch.linspace(1, 3, rank, dtype=torch.float64)) @ v.T
    assert 1 - 1e-9 <= geometry.effective_rank(mixed) <= rank + 1e-9
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    expected = 0.75**-0.75 * 0.25**-0.25
    assert geometry.effective_rank(torch.diag(p)) == pytest.approx(expected)


@invariant(11)
def test_the_same_task_twice() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    for centre in (False, True):
        a, b = (
            geometry.gradient_subspaces(model, batches(8, 4, 12), mse, centre=centre)
            for _ in range(2)
        )
        report = compare(a, b)
        assert report.closest.angle < 1e-6 and report.overlap == pytest.approx(1.0)
        assert report.cosine2 == pytest.approx(1.0) and not report.unrelated


@invariant(12)
@pytest.mark.parametrize("method", [gw.LoRA(2, alpha=6.0), gw.LoRA(2, alpha=6.0, dropout=0.5)])
def test_factor_gradients_are_those_of_the_weight(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    g = gw.graft(model, method, sites=["0"])
    named = dict(g.named_parameters())
    ((x, y),) = batches(7, 4, 1)
    batch = (x.double(), y.double())
    model.train()
    for at_zero in (True, False):
        if not at_zero:
            torch.nn.init.normal_(named["0.B"])
        found = geometry.gradient_subspaces(model, [batch], mse, sites=["0"], k=1)["0"]
        assert model.training and not any(p.requires_grad for p in model[0].parameters(False))
        model.eval()
        a, b = torch.autograd.grad(mse(model, batch), [named["0.A"], named["0.B"]])
        weight = (model[0].weight + 3.0 * named["0.B"] @ named["0.A"]).detach().requires_grad_(True)
        h = nn.functional.linear(batch[0], weight, model[0].bias)
        (full,) = torch.autograd.grad((model[2](h.tanh()) - batch[1]).square().mean(), weight)
        torch.testing.assert_close(a, 3.0 * named["0.B"].detach().T @ full)
        torch.testing.assert_close(b, 3.0 * full @ named["0.A"].detach().T)
        assert bool(a.any()) is not at_zero
        # and G is what the room measures
        assert found.energy == pytest.approx(float(full.square().sum()))
        leading = torch.linalg.svd(full).Vh[:1].T
        assert principal_angles(found, Subspace(leading))[0] < 1e-6
        model.train()


def test_every_invariant_has_a_test() -> None:
    _, _, listed = (geometry.__doc__ or "").partition("\nInvariants:\n")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)]
    assert sorted(CLAIMED) == numbers == list(range(1, 13))


# -- beside the invariants ----------------------------------------------------------------------------


def test_sides_centring_and_sums() -> None:
    torch.manual_seed(0)
    model, data = nn.Linear(6, 4), batches(6, 4, 8)
    rows = []
    for batch in data:
        rows.append(torch.autograd.grad(mse(model, batch), model.weight)[0].double())
    stack = torch.stack(rows)
    for side, second in (
        ("input", torch.einsum("boi,boj->ij", stack, stack)),
        ("output", torch.einsum("boi,bpi->op", stack, stack)),
    ):
        found = geometry.gradient_subspaces(model, data, mse, side=side, k=2)[""]  # type: ignore[arg-type]
        expected = torch.linalg.eigh(second).eigenvectors[:, -2:]
        assert principal_angles(found, Subspace(expected)).max() < 1e-4
        assert found.energy == pytest.approx(float(second.trace()), rel=1e-5)
    middle = stack - stack.mean(0)
    centred = geometry.gradient_subspaces(model, data, mse, k=2, centre=True)[""]
    assert centred.energy == pytest.approx(float(middle.square().sum()), rel=1e-4)
    few = span(torch.diag(torch.tensor([8.0, 1.0, 1.0])), share=0.9)
    assert few.k == 2 and span(torch.eye(9), cap=4).k == 4 and span(torch.eye(9), k=5).k == 5


def test_unrelated_and_related_tasks() -> None:
    draws = [{"w": Subspace(orthonormal(64, 4, i))} for i in range(40)]
    reports = [compare(a, b, draws=60) for a, b in itertools.pairwise(draws)]
    assert sum(r.unrelated for r in reports) >= 34
    near = Subspace(torch.linalg.qr(draws[0]["w"].basis + 0.1 * draws[1]["w"].basis).Q)
    assert not compare(draws[0], {"w": near}).unrelated


def test_intruders_are_found() -> None:
    torch.manual_seed(0)
    u, v = orthonormal(12, 12, 0), orthonormal(9, 9, 1)
    before = u[:, :9] @ torch.diag(torch.linspace(9, 1, 9, dtype=torch.float64)) @ v.T
    assert geometry.intruder_dimensions(before, before, top=5).indices == []
    assert geometry.intruder_dimensions(before, 2.5 * before, top=9).indices == []
    new = before + 20 * torch.outer(u[:, 11], v[:, 0] + v[:, 1])
    found = geometry.intruder_dimensions(before, new, top=3)
    assert found.indices == [0] and found.cosines[0] < 0.3
    strong = before + 5 * torch.outer(u[:, 0], v[:, 0])  # more of what was there
    assert geometry.intruder_dimensions(before, strong, top=5).indices == []


def test_convolutions_and_what_is_left_untouched() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
    )
    gw.graft(model, gw.LoRA(2), sites=["0"])
    before = copy.deepcopy(model.state_dict())
    data = [(x.reshape(5, 2, 4, 4), y[:, :2]) for x, y in batches(32, 32, 4)]
    found = geometry.gradient_subspaces(model, data, mse, k=1)
    assert {n: s.n for n, s in found.items()} == {"0": 9, "3": 16}
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: principal_angles(Subspace(torch.eye(3)), Subspace(torch.eye(4))), "of 3 and of 4"),
        (lambda: span(torch.zeros(3, 3)), "all gradients are zero"),
        (lambda: span(torch.full((3, 3), torch.nan)), "not finite"),
        (lambda: span(torch.eye(3), share=0.0), "share in"),
        (lambda: geometry.null_level(4, 5), r"\[1, 4\]"),
        (lambda: geometry.null_level(4, 2, draws=1), "at least 2"),
        (lambda: compare({}, {}), "at least one"),
        (lambda: compare({"a": Subspace(torch.eye(2))}, {"b": Subspace(torch.eye(2))}), "'a', 'b'"),
        (lambda: compare({"a": Subspace(torch.eye(2))}, {"a": Subspace(torch.eye(3))}), "2 dim"),
        (lambda: geometry.fit_forgetting_law([0.0, 1.0, 1.0], [1, 2, 3]), "three different"),
        (lambda: geometry.fit_forgetting_law([0.0, 1.0], [1, 2, 3]), "angles for"),
        (lambda: geometry.fit_forgetting_law([0, 45, 90], [1, 2, 3]), "convert degrees"),
        (lambda: geometry.fit_forgetting_law([0, 1, 1.5], [1, 2, math.nan]), "finite"),
        (lambda: geometry.effective_rank(torch.zeros(2, 2)), "zero"),
        (lambda: geometry.intruder_dimensions(torch.eye(3), torch.eye(4)), "differ"),
        (lambda: geometry.intruder_dimensions(torch.eye(3), torch.eye(3), top=4), r"\[1, 3\]"),
        (lambda: geometry.gradient_subspaces(nn.Linear(2, 2), [], mse), "no batches"),
        (lambda: geometry.gradient_subspaces(nn.Linear(2, 2), [], mse, sites="x*"), "no layer"),
        (
            lambda: geometry.gradient_subspaces(
                nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]),
                batches(2, 2, 1),
                lambda m, b: mse(m[0], b),
            ),
            "1: no gradient",
        ),
    ],
)
def test_refusals(call: Any, words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        call()
