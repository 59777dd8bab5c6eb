"""When a replay counts as the pass it was recorded from, and what is said when it does not."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.recording.around import Unfit
from graftwork.recording.likeness import HALF, MOST, TIMES, WIDE, distances, gaps, told, unsteady
from graftwork.recording.take import seeds_like
from tests.recording.fake_graphs import Again, Fake

NAMES = ["output 0", "the gradient of a"]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def beside(grad: Tensor, share: float, seed: int) -> Tensor:
    """The gradient, and noise of such a share of its norm."""
    noise = drawn(*grad.shape, seed=seed)
    return grad + share * noise * (grad.norm() / noise.norm())


def test_equal_rehearsals_allow_rounding_alone() -> None:
    for dtype, near in ((torch.float32, WIDE), (torch.bfloat16, HALF)):
        out, grad = drawn(8, 8, seed=0), drawn(300, 30, seed=1).to(dtype)
        for share, fits in ((0.8 * near, True), (1.2 * near, False)):
            moved = beside(grad.float(), share, 2).to(dtype)
            found = gaps(NAMES, [out, moved], [[out, grad]] * 2, 1)
            assert [g.fits for g in found] == [True, fits], (dtype, share)
            assert found[1].usual == 0 and found[0].differing == 0 < found[1].differing
    assert found[1].gap / found[1].size == pytest.approx(1.2 * HALF, rel=0.1)


def test_one_tensor_that_happens_to_agree_is_judged_by_the_pass() -> None:
    """Two rehearsals of `b` agree by chance, as `a`'s do not; a replay may be as far from it as theirs are."""
    out, a, b = drawn(8, 8, seed=0), drawn(30, 30, seed=1), drawn(30, 30, seed=2)
    names = [*NAMES, "the gradient of b"]
    rehearsed = [[out, a, b], [out, beside(a, 0.02, 3), b]]
    for share, fits in ((0.02, True), (0.9 * (0.02 * TIMES + WIDE), True), (0.07, False)):
        found = gaps(names, [out, beside(a, 0.02, 4), beside(b, share, 5)], rehearsed, 1)
        assert [g.fits for g in found] == [True, True, fits], share
        assert unsteady(found) is None
    moved = gaps(names, [beside(out, 0.02, 6), a, b], rehearsed, 1)
    assert [g.fits for g in moved] == [False, True, True]  # outputs have a level of their own


def test_the_level_of_a_pass_has_a_bound() -> None:
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    rehearsed = [[out, grad], [out, beside(grad, 0.09, 2)]]
    for share, fits in ((MOST, True), (1.1 * MOST, False)):
        assert gaps(NAMES, [out, beside(grad, share, 3)], rehearsed, 1)[1].fits is fits


def test_noise_beside_a_larger_gradient_neither_fails_nor_hides() -> None:
    """A gradient that cancels differs from itself each time; the others are still held to theirs."""
    names = [*NAMES, "the gradient of b"]
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    rehearsed = [[out, grad, 0.01 * drawn(30, 30, seed=i)] for i in range(3)]
    replayed = [out, grad, 0.01 * drawn(30, 30, seed=9)]
    found = gaps(names, replayed, rehearsed, 1)
    assert found[2].usual > found[2].size and all(g.fits for g in found)
    assert unsteady(found) is None
    wrong = gaps(names, [out, beside(grad, 0.01, 4), replayed[2]], rehearsed, 1)
    assert [g.fits for g in wrong] == [True, False, True]
    assert "all gradients" in str(unsteady([found[0], found[2]]))
    loose = gaps(NAMES, [out, grad], [[out, grad], [beside(out, 0.2, 3), grad]], 1)
    assert "of the norm of output 0" in str(unsteady(loose))


def test_whole_numbers_are_equal_and_what_is_not_finite_is_not_compared() -> None:
    ones = torch.ones(4, dtype=torch.long)
    found = gaps(NAMES, [ones, ones * 2], [[ones, ones]] * 2, 1)
    assert [g.fits for g in found] == [True, False]
    bad, good = torch.full((4,), torch.nan), torch.ones(4)
    assert all(g.fits for g in gaps(NAMES, [bad, bad], [[bad, bad]] * 2, 1))
    assert [g.fits for g in gaps(NAMES, [good, bad], [[good, good]] * 2, 1)] == [True, False]
    with pytest.raises(Unfit, match="another tensor has a gradient"):
        gaps(NAMES, [good, None], [[good, good]] * 2, 1)
    assert distances([good, None], [good * 2, None]) == [2.0]


class Stale(Fake):
    """Replays with one trained tensor as it was at the capture: its memory is elsewhere by then."""

    def capture(self, forward, backward, numbers=()) -> Again:  # type: ignore[no-untyped-def]
        made = super().capture(forward, backward, numbers)
        again = made.backward

        def wrong() -> None:
            again()
            grad = made.grads[-1]
            assert grad is not None
            grad.mul_(1.5)

        made.backward = wrong  # type: ignore[method-assign]
        return made


def test_the_message_names_the_tensor_and_by_how_much() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    gw.graft(net, gw.LoRA(4), sites=["0", "2"])
    names = [n for n, p in net.named_parameters() if p.requires_grad]
    lines: list[str] = []
    with gw.recorded(net, tell=lines.append, machine=Stale()) as recorder:
        for _ in range(2):
            net(torch.randn(3, 8)).sum().backward()
    assert recorder.replayed == 0 and len(lines) == 1
    assert f"1 of {1 + len(names)} tensors, most of all the gradient of {names[-1]}: " in lines[0]
    assert "16 of 16 values differ, by 5.0e-01 of its norm" in lines[0]
    assert "(rehearsals 0.0e+00, allowed 2.0e-03)" in lines[0]
    assert "two replays differ by 0.0e+00" in lines[0]


class Unordered(nn.Module):
    """A map whose backward pass adds in another order at each call from some call on."""

    def __init__(self, steady: int) -> None:
        super().__init__()
        self.up, self.steady, self.calls = nn.Linear(8, 16), steady, 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(x)
        y.register_hook(self._shaken)
        return y

    def _shaken(self, g: Tensor) -> Tensor:
        self.calls += 1
        share = 0.02 if self.calls > self.steady else 0.0
        return beside(g, share, self.calls)


def test_seeds_do_not_cancel_in_a_normalisation_and_draw_from_nobody() -> None:
    x = drawn(5, 16, seed=0).requires_grad_()
    y = nn.functional.layer_norm(x, (16,))
    state = torch.get_rng_state()
    seeds = seeds_like([y])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seeds[0], seeds_like([y])[0]) and seeds[0].dtype is y.dtype
    (vain,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    (grad,) = torch.autograd.grad(y, x, seeds[0])
    assert grad.norm() > 1e4 * vain.norm()


class Full(Fake):
    """Has no memory for a rehearsal beside a recording."""

    def beside(self) -> contextlib.AbstractContextManager[Any]:
        if self.captures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().beside()


def unordered(steady: int, machine: Fake) -> tuple[Any, list[str]]:
    torch.manual_seed(0)
    net = nn.Sequential(Unordered(steady), nn.Tanh(), nn.Linear(16, 4))
    gw.graft(net, gw.LoRA(4, dropout=0.3), sites=["0.up", "2"])
    lines: list[str] = []
    with gw.recorded(net, tell=lines.append, machine=machine) as recorder:
        for _ in range(3):
            net(torch.randn(3, 8)).sum().backward()
    return recorder, lines


@pytest.mark.parametrize("steady", [0, 3], ids=["always", "not in the rehearsals"])
def test_a_pass_that_adds_in_no_fixed_order_is_recorded(steady: int) -> None:
    """Where the rehearsals happened to agree, further ones, on the same random numbers, show that the pass does not."""
    recorder, lines = unordered(steady, Fake())
    assert recorder.replayed == 3 and not lines


def test_without_memory_for_further_rehearsals_the_first_ones_judge() -> None:
    recorder, lines = unordered(0, Full())
    assert recorder.replayed == 3 and not lines
    recorder, lines = unordered(3, Full())
    assert recorder.replayed == 0 and recorder.plain.total() == 3
    assert len(lines) == 1 and "a replay gives other values" in lines[0]


def test_the_worst_of_several_is_told() -> None:
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    found = gaps(NAMES, [out * 1.1, grad * 3], [[out, grad]] * 2, 1)
    line = told(found, 7, [0.0, 0.5 * float(grad.norm())])
    assert "2 of 7 tensors, most of all the gradient of a: 900 of 900 values differ" in line
    assert line.endswith("two replays differ by 5.0e-01")
