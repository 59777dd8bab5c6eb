"""The soft isolation of tasks: its terms by hand, its gradient, its start, and what it does to a training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork import isolation
from graftwork.attach import CALL

D, SITES = 12, ["0", "2"]


def model_with(*methods: Any) -> tuple[nn.Module, list[gw.Graft]]:
    """Two layers of width 12 with a graft for each method, moved away from the start; the last one is on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, D))
    made = [gw.graft(model, m, sites=SITES, name=f"task{i}", seed=i) for i, m in enumerate(methods)]
    with torch.no_grad():
        for g in made:
            for p in g.parameters():
                p.add_(0.3 * torch.randn_like(p))
    gw.activate(model, {made[-1].name: 1.0})
    return model, made


def rows(g: gw.Graft, site: str) -> Tensor:
    """The orthonormal rows of a LoReFT, by QR; up to signs those of Gram-Schmidt."""
    return torch.linalg.qr(g.tensors()[f"{site}.R"].double().T)[0].T


def loreft(rank: int = 2, **more: Any) -> gw.LoReFT:
    return gw.LoReFT(rank, where="all", **more)


def test_the_terms_are_those_of_the_equation() -> None:
    model, (one, two, new) = model_with(loreft(2), loreft(3), loreft(2))
    x = torch.randn(5, 4, D)
    inner = model[0](x)  # the new edit is on
    gw.activate(model, {})
    plain = [model[0](x), model[2](model[1](inner))]
    gw.activate(model, {new.name: 1.0})
    edits = [inner - plain[0], model(x) - plain[1]]
    overlap, drift = 0.0, 0.0
    for site, edit in zip(SITES, edits, strict=True):
        others = [rows(g, site) for g in (one, two)]
        overlap += sum(float((rows(new, site) @ r.T).square().sum()) for r in others)
        q = torch.linalg.qr(torch.cat(others).T)[0]
        drift += float((edit.double() @ q).square().sum(-1).mean().detach())
    with isolation.isolated(new, "task0", "task1", overlap=0.7, drift=0.3) as apart:
        model(x)
        found = apart().detach()
        assert float(apart().detach()) == pytest.approx(0.7 * overlap, rel=1e-4)  # no forward since
    assert overlap > 0.1 and drift > 0.01
    assert float(found) == pytest.approx(0.7 * overlap + 0.3 * drift, rel=1e-4)


def test_the_gradient_reaches_the_new_task_alone_and_nothing_stays() -> None:
    model, (one, new) = model_with(loreft(), loreft())
    before = one.tensors()
    with isolation.isolated(new, "task0") as apart:
        model(torch.randn(3, D))
        apart().backward()
    assert all(p.grad is None for p in one.parameters())
    grads = {n: p.grad for n, p in new.named_parameters()}
    assert all(bool(grads[f"{s}.{n}"].any()) for s in SITES for n in "RWb")
    assert all(torch.equal(t, before[n]) for n, t in one.tensors().items())
    for site in SITES:
        assert new.site(site).state(new.name, CALL).watch is None  # type: ignore[union-attr]
    with isolation.isolated(new, "task0") as apart:
        assert float(apart().detach()) > 0


def test_a_start_apart_is_the_base_and_orthogonal() -> None:
    model, (one, two, new) = model_with(loreft(4), loreft(3), loreft(5))
    isolation.start_apart(new, "task0", "task1")
    x = torch.randn(6, D)
    gw.activate(model, {})
    base = model(x)
    gw.activate(model, {new.name: 1.0})
    assert torch.equal(model(x), base)
    for site in SITES:
        mine = rows(new, site)
        for other in (one, two):
            assert float((mine @ rows(other, site).T).abs().max()) < 1e-6
        assert float(mine.abs().min()) > 0
    with isolation.isolated(new, "task0", "task1") as apart:
        model(x)
        assert float(apart().detach()) < 1e-10


def test_the_hard_form_has_no_penalty() -> None:
    tasks = [gw.CoRe(2, tasks=4, task=t) for t in (1, 2, 3)]
    model, grafts = model_with(*tasks)
    with isolation.isolated(grafts[-1], "task0", "task1") as apart:
        model(torch.randn(3, D))
        assert float(apart().detach()) < 1e-10


def test_the_penalty_keeps_a_training_apart() -> None:
    found = []
    for weight in (0.0, 5.0):
        model, (_, new) = model_with(loreft(2), loreft(2))
        isolation.start_apart(new, "task0")
        x = torch.randn(64, D, generator=torch.Generator().manual_seed(1))
        gw.activate(model, {"task0": 1.0})
        y = model(x).detach()  # what the first task does: the second is drawn into its rows
        gw.activate(model, {new.name: 1.0})
        optimizer = torch.optim.Adam(new.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            with isolation.isolated(new, "task0", overlap=weight, drift=weight) as apart:
                ((model(x) - y).square().mean() + apart()).backward()
            optimizer.step()
        with isolation.isolated(new, "task0", drift=0.0) as apart:
            found.append(float(apart().detach()))
    assert found[0] > 0.05 and found[1] < 0.1 * found[0]


def test_bad_input_is_refused_by_name() -> None:
    model, (_, new) = model_with(loreft(4), loreft(4))
    gw.graft(model, gw.LoRA(2), sites=SITES, name="lora")
    gw.graft(model, loreft(), sites=["0"], name="one")
    gw.graft(model, loreft(5), sites=SITES, name="wide")
    for names, words in (
        ((), "name the grafts"),
        (("task1",), "name the grafts"),
        (("lora",), "'lora' has LoRA"),
        (("one",), "'one' and 'task1' differ at '2'"),
        (("nobody",), "nobody"),
    ):
        with pytest.raises(gw.GraftError, match=words), isolation.isolated(new, *names):
            pass
    with pytest.raises(gw.GraftError, match="drift must be at least 0"):
        isolation.isolated(new, "task0", drift=-1.0).__enter__()
    with pytest.raises(gw.GraftError, match=r"9 dimensions of 12 .* LoReFT.rank = 4"):
        isolation.start_apart(new, "task0", "wide")
