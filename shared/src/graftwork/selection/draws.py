"""A stochastic choice of samples by their scores; the same key, the same choice, whatever else drew."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

RULES = ("softmax", "uniform", "top")


def standardised(scores: Tensor) -> Tensor:
    """(a - mean a) / std a over the samples; 0 where the scores are equal to rounding. Population std."""
    off = scores - scores.mean()
    spread = off.square().mean().sqrt()
    if spread <= 8 * torch.finfo(scores.dtype).eps * scores.abs().max():
        return torch.zeros_like(off)
    return off / spread


def choose(scores: Tensor, keep: int, rule: str, temperature: float, *key: int | str) -> Tensor:
    """Indices, in ascending order, of `keep` of the samples, without replacement.

    Perturbing log-probabilities with Gumbel noise and taking the largest is drawing one sample after the other from
    what is left of softmax(standardised scores / temperature); "uniform" leaves the scores out, "top" the noise.

    Args:
        scores: `(samples,)`, finite.
        key: numbers and words that name this draw.
    """
    z = standardised(scores.detach()).to("cpu", torch.float64) / temperature
    if rule == "uniform":
        z = torch.zeros_like(z)
    if rule != "top":
        seed = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "little") >> 1)
        u = torch.rand(len(z), generator=generator, dtype=torch.float64)
        z = z - (-u.clamp_min(torch.finfo(u.dtype).tiny).log()).log()
    return z.topk(keep).indices.sort().values
