"""When a replay counts as the pass it was recorded from, and what is said when it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.recording.around import Unfit
from graftwork.recording.likeness import HALF, TIMES, WIDE, distances, gaps, told, unsteady
from tests.recording.fake_graphs import Again, Fake

NAMES = ["output 0", "the gradient of a"]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_equal_rehearsals_allow_rounding_alone() -> None:
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    far = drawn(30, 30, seed=2)
    far *= grad.norm() / far.norm()
    for half, near in ((False, WIDE), (True, HALF)):
        for share, fits in ((0.9 * near, True), (1.1 * near, False)):
            found = gaps(NAMES, [out, grad + share * far], [[out, grad]] * 3, half)
            assert [g.fits for g in found] == [True, fits], (half, share)
            assert found[1].differing == 900 and found[1].usual == 0
            assert found[1].gap / found[1].size == pytest.approx(share, rel=1e-3)


def test_rehearsals_that_differ_allow_a_multiple_of_their_distance() -> None:
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    small = drawn(30, 30, seed=3) * 0.02
    rehearsed = [[out, grad + small * i] for i in (0, 1, -1)]
    usual = float(2 * small.norm())
    beyond = (WIDE * float(grad.norm()) + TIMES * usual) / float(small.norm())
    for steps, fits in ((3.0, True), (0.95 * beyond, True), (1.1 * beyond + 1, False)):
        found = gaps(NAMES, [out, grad + small * steps], rehearsed, False)
        assert found[1].usual == pytest.approx(usual, rel=1e-3)
        assert found[1].fits is fits, steps
    assert unsteady(found, 1) is None


def test_noise_beside_a_larger_gradient_neither_fails_nor_hides() -> None:
    """A gradient that cancels differs from itself each time; the others are still held to theirs."""
    names = [*NAMES, "the gradient of b"]
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    rehearsed = [[out, grad, 0.01 * drawn(30, 30, seed=i)] for i in range(3)]
    replayed = [out, grad, 0.01 * drawn(30, 30, seed=9)]
    found = gaps(names, replayed, rehearsed, True)
    assert found[2].usual > found[2].size and all(g.fits for g in found)
    assert unsteady(found, 1) is None
    wrong = gaps(names, [out, grad.roll(1), replayed[2]], rehearsed, True)
    assert [g.fits for g in wrong] == [True, False, True]
    assert "all gradients" in str(unsteady([found[0], found[2]], 1))


def test_whole_numbers_are_equal_and_what_is_not_finite_is_not_compared() -> None:
    ones = torch.ones(4, dtype=torch.long)
    found = gaps(NAMES, [ones, ones * 2], [[ones, ones]] * 2, True)
    assert [g.fits for g in found] == [True, False]
    bad, good = torch.full((4,), torch.nan), torch.ones(4)
    assert all(g.fits for g in gaps(NAMES, [bad, bad], [[bad, bad]] * 2, True))
    assert [g.fits for g in gaps(NAMES, [good, bad], [[good, good]] * 2, True)] == [True, False]
    with pytest.raises(Unfit, match="another tensor has a gradient"):
        gaps(NAMES, [good, None], [[good, good]] * 2, True)
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
    assert "rehearsals among themselves 0.0e+00" in lines[0]
    assert "two replays differ by 0.0e+00" in lines[0]


def test_the_worst_of_several_is_told() -> None:
    out, grad = drawn(8, 8, seed=0), drawn(30, 30, seed=1)
    found = gaps(NAMES, [out * 1.1, grad * 3], [[out, grad]] * 2, False)
    line = told(found, 7, [0.0, 0.5 * float(grad.norm())])
    assert "2 of 7 tensors, most of all the gradient of a: 900 of 900 values differ" in line
    assert line.endswith("two replays differ by 5.0e-01")
