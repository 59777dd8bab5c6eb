"""Rows kept orthonormal, and starts that keeping them so returns bit for bit."""

from __future__ import annotations

import math

import torch

from graftwork.starts.orthonormal import exact_rows, orthonormal

R, D = 3, 12


def gram_schmidt(a: torch.Tensor) -> torch.Tensor:
    """By hand, in float64."""
    rows: list[torch.Tensor] = []
    for v in a:
        for _ in range(2):
            for q in rows:
                v = v - (v @ q) * q
        rows.append(v / v.norm())
    return torch.stack(rows)


def test_nearly_parallel_rows_and_rows_of_any_size_become_orthonormal() -> None:
    a = torch.randn(1, D) + 1e-4 * torch.randn(R, D)
    for scale in (1.0, 1e-15, 1e15):
        a[1] *= scale
        r = orthonormal(a)
        assert float((r @ r.T - torch.eye(R)).abs().max()) < 1e-5
    wide = torch.randn(4, 2, R, D, dtype=torch.float64)
    hand = torch.stack([gram_schmidt(m) for m in wide.flatten(0, 1)]).reshape(wide.shape)
    torch.testing.assert_close(orthonormal(wide), hand, rtol=0, atol=1e-12)
    assert bool(orthonormal(torch.full((2, 3), math.nan)).isnan().all())


def test_exact_rows_are_random_and_spread() -> None:
    one, two = (exact_rows(4, torch.zeros(()), 768) for _ in range(2))
    assert not torch.equal(one, two)
    assert (one != 0).sum(-1).tolist() == [256] * 4 and bool((one < 0).any())
    assert (exact_rows(4, torch.zeros(()), 65) != 0).sum(-1).tolist() == [64] * 4
    assert exact_rows(10**9, torch.zeros((), device="meta"), 5).shape == (10**9, 5)


def test_gradients_are_those_of_gram_schmidt() -> None:
    a = torch.randn(R, D, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(R, D, dtype=torch.float64)
    (ours,) = torch.autograd.grad((orthonormal(a) * weights).sum(), a)
    (theirs,) = torch.autograd.grad((gram_schmidt(a) * weights).sum(), a)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    exact = exact_rows(R, torch.zeros((), dtype=torch.float64), D).requires_grad_()
    (ours,) = torch.autograd.grad((orthonormal(exact) * weights).sum(), exact)
    (theirs,) = torch.autograd.grad((gram_schmidt(exact) * weights).sum(), exact)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
