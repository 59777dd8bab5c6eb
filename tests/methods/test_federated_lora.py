"""What a server draws, and what counts as N, where clients average LoRA's A."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.federated import common_start, effective_clients


def fresh(method: Any, seed: int | None = None) -> gw.Graft:
    model = nn.Sequential(nn.Linear(300, 20), nn.Tanh(), nn.Linear(20, 8))
    return gw.graft(model, method, sites=["0", "2"], seed=seed)


def test_one_small_start_has_the_moments_of_an_average_of_starts() -> None:
    clients, rank = 16, 8
    method = gw.LoRA(rank, clients=clients)
    average = torch.stack([fresh(method, i).tensors()["0.A"] for i in range(clients)]).mean(0)
    g = fresh(method, 99)
    usual = {n: t.clone() for n, t in g.tensors().items()}
    common_start(g)
    common = g.tensors()["0.A"]
    assert float(common.std()) == pytest.approx(float(average.std()), rel=0.1)
    assert abs(float(common.mean())) < 0.1 * float(common.std())
    for name, t in g.tensors().items():
        torch.testing.assert_close(t, usual[name] / (4 if name.endswith("A") else 1))
    x = torch.randn(3, 300)
    y = g.model(x)
    with g.off():
        assert torch.equal(g.model(x), y)


def test_sites_may_have_clients_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    g = gw.graft(model, gw.DoRA(2, clients=4), sites=["0", "1"], overrides={"1": {"clients": 9}})
    before = {n: t.clone() for n, t in g.tensors().items()}
    common_start(g)
    for name, root in (("0.A", 2), ("1.A", 3), ("0.magnitude", 1)):
        torch.testing.assert_close(g.tensors()[name], before[name] / root)


@pytest.mark.parametrize(
    ("method", "sites", "words"),
    [
        (gw.LoRA(2), ["0"], r"0: LoRA\.clients is not set"),
        (gw.PiSSA(2, clients=4), ["0"], "0: its A is not drawn at random"),
        (gw.LoRA(2, clients=4), ["1"], "1: its A is not drawn at random"),
        (gw.BitFit(), ["0"], "the graft has no LoRA"),
    ],
)
def test_what_has_no_average_is_refused(method: Any, sites: list[str], words: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Embedding(5, 4))
    with pytest.raises(gw.GraftError, match=words):
        common_start(gw.graft(model, method, sites=sites))


def test_a_trained_graft_is_refused_and_stays_as_it_is() -> None:
    g = fresh(gw.LoRA(2, clients=4))
    with torch.no_grad():
        dict(g.named_parameters())["2.B"].add_(1)
    before = {n: t.clone() for n, t in g.tensors().items()}
    with pytest.raises(gw.GraftError, match="2: B is not zero"):
        common_start(g)
    assert all(torch.equal(t, before[n]) for n, t in g.tensors().items())


def test_unequal_weights_count_as_fewer_clients() -> None:
    assert effective_clients([1, 1, 1, 1]) == effective_clients([0.25] * 4) == pytest.approx(4)
    assert effective_clients([3, 1]) == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert effective_clients([7]) == 1
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([5.0, 2.0, 1.0])
    starts = torch.randn(3, 40000, generator=generator)
    variance = float((weights / weights.sum() @ starts).var())
    assert variance == pytest.approx(1 / effective_clients(weights.tolist()), rel=0.05)
    scale = gw.LoRA(4, alpha=2.0, clients=effective_clients([3, 1])).scale
    assert scale == pytest.approx(2.0 * (1.6 / 4) ** 0.5)
    for bad in ([], [1, 0], [1, -1], [float("inf")]):
        with pytest.raises(gw.GraftError, match="a weight above 0"):
            effective_clients(bad)
