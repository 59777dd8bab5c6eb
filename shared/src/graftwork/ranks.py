"""Active ranks of LoRA-SP, and its export as plain LoRA (arXiv 2603.07404, sections III and IV).

    with rank_statistics(g) as ranks:
        model(x)
    ranks["blocks.0.q_proj"].mean            # vectors per token
    lora, errors = to_lora(g, lambda: model(x))

The export keeps the vectors that some token of the calibration data chose, each with its mean score. It can be
merged, and it is an approximation: the change no longer depends on the input. Its error on the calibration data comes
with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.errors import GraftError
from graftwork.graft import attach_entry
from graftwork.handle import Graft
from graftwork.ledger import Entry
from graftwork.methods.base import Method
from graftwork.methods.lora import LoRA
from graftwork.methods.lora_sp import LoRASP
from graftwork.sites import Site
from graftwork.states import MethodState, first_input

See = Callable[[MethodState, Tensor], None]


@dataclass
class SiteRanks:
    """What the gate of one layer chose.

    Attributes:
        scores: `(r,)`, sum over tokens of the kept scores sigma.
        used: `(r,)`, whether any token chose the vector.
        tokens, vectors: how many were seen, and how many vectors they chose together.
        least, most: extremes of a token's active rank.
    """

    scores: Tensor
    used: Tensor
    tokens: int = 0
    vectors: int = 0
    least: int = 0
    most: int = 0

    @property
    def mean(self) -> float:
        """Vectors per token; 0 before any token was seen."""
        return self.vectors / self.tokens if self.tokens else 0.0

    def see(self, sigma: Tensor) -> None:
        """Count the kept scores `(tokens, r)`."""
        if not len(sigma):
            return
        active = (sigma > 0).sum(-1)
        least, most = int(active.min()), int(active.max())
        self.least = min(self.least, least) if self.tokens else least
        self.most = max(self.most, most)
        self.tokens += len(sigma)
        self.vectors += int(active.sum())
        self.scores += sigma.sum(0)
        self.used |= (sigma > 0).any(0)


@contextlib.contextmanager
def rank_statistics(graft: Graft, keep: Tensor | None = None) -> Iterator[dict[str, SiteRanks]]:
    """Count what the gates choose in the forward passes of this block, by site; dropout is left out.

    Args:
        graft: of `LoRASP`, switched on.
        keep: boolean, of the shape of the tokens `(batch, time)`: `False` leaves a padding token out.

    Raises:
        GraftError: another method, or in a forward pass a `keep` of another shape.
    """
    found: dict[str, SiteRanks] = {}
    names: dict[int, str] = {}
    for name, state in _states(graft):
        zeros = torch.zeros_like(state.params()["b2"])
        found[name] = SiteRanks(zeros, zeros > 0)
        names[id(state)] = name

    def see(state: MethodState, x: Tensor) -> None:
        sigma = _sigma(state, x)
        if keep is not None and keep.shape != x.shape[:-1]:
            have, want = tuple(keep.shape), tuple(x.shape[:-1])
            raise GraftError(
                f"keep: {names[id(state)]} was called with tokens {want}, keep is {have}"
            )
        flat = sigma.flatten(0, -2) if keep is None else sigma[keep]
        site = found[names[id(state)]]
        site.see(flat.to(site.scores.dtype))

    with _watched(graft, see):
        yield found


def to_lora(
    graft: Graft, calibrate: Callable[[], Any], name: str = "exported"
) -> tuple[Graft, dict[str, float]]:
    """LoRA of the vectors that calibration data chose, on the same model beside the graft, switched on alone.

    Args:
        graft: of `LoRASP`, switched on.
        calibrate: runs the calibration data through the model; called twice.
        name: of the new graft.

    Returns:
        The new graft, and for each site the Frobenius norm of the error of its change over that of the change, on
        the calibration data.

    Raises:
        GraftError: another method, a site that the calibration data does not reach, a name in use.
    """
    with rank_statistics(graft) as ranks:
        calibrate()
    factors: dict[int, tuple[Tensor, Tensor]] = {}
    for site, state in _states(graft):
        seen, p = ranks[site], state.params()
        if not seen.tokens or not bool(seen.used.any()):
            raise GraftError(f"to_lora: the calibration data does not reach {site or 'the layer'}")
        mean = _method(state).scale * seen.scores / seen.tokens
        b = (p["U"] * mean).detach()[:, seen.used]
        factors[id(state)] = p["V"].detach()[seen.used], b
    sums = {id(state): [0.0, 0.0] for _, state in _states(graft)}

    def see(state: MethodState, x: Tensor) -> None:
        p, (a, b) = state.params(), factors[id(state)]
        wide = x.to(a.dtype)
        exact = F.linear(_method(state).scale * _sigma(state, x) * F.linear(wide, p["V"]), p["U"])
        off = F.linear(F.linear(wide, a), b) - exact
        sums[id(state)][0] += float(off.square().sum())
        sums[id(state)][1] += float(exact.square().sum())

    with _watched(graft, see):
        calibrate()
    made = _attach(graft, name, {site: factors[id(s)] for site, s in _states(graft)})
    errors = {
        site: (sums[id(s)][0] / sums[id(s)][1]) ** 0.5 if sums[id(s)][1] else 0.0
        for site, s in _states(graft)
    }
    return made, errors


def _attach(graft: Graft, name: str, factors: dict[str, tuple[Tensor, Tensor]]) -> Graft:
    tensors = {
        f"{site}.{leaf}".lstrip("."): t
        for site, pair in factors.items()
        for leaf, t in zip("AB", pair, strict=True)
    }
    # a bank may be wider than its layer, where a new LoRA may not
    places: list[tuple[Site, Method]] = [
        (site, LoRA(len(factors[site.name][0]))) for site, _ in graft.entry.sites
    ]
    entry = Entry(LoRA(max(len(a) for a, _ in factors.values())), places, [], {})
    return attach_entry(graft.model, name, entry, None, tensors)


def _states(graft: Graft) -> list[tuple[str, MethodState]]:
    found = []
    for name, state in graft.states():
        if not isinstance(state, MethodState) or not isinstance(state.method, LoRASP):
            raise GraftError(f"ranks: graft {graft.name!r} has {name}, which is no LoRASP")
        found.append((name, state))
    return found


def _method(state: MethodState) -> LoRASP:
    assert isinstance(state.method, LoRASP)
    return state.method


def _sigma(state: MethodState, x: Tensor) -> Tensor:
    method = _method(state)
    s = F.softplus(method.logits(state.params(), x))
    return s * method.kept(s)


@contextlib.contextmanager
def _watched(graft: Graft, see: See) -> Iterator[None]:
    """Call `see` with the input of every call of a site, without gradient."""

    def hook_of(state: MethodState) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            with torch.no_grad():
                see(state, first_input(args, kwargs))

        return hook

    handles = [
        graft.model.get_submodule(name).register_forward_pre_hook(hook_of(state), with_kwargs=True)
        for name, state in _states(graft)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
