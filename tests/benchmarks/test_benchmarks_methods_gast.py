"""GAST's experiment: wrong labels agree, arms train on what their names say, the verdict follows the rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits, gast
from benchmarks.methods.harness import ratio
from graftwork_runs import validate_record
from tests.benchmarks.method_experiments import command_matches, put

WIDTH = 16


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(digits, "STEPS", 10)
    for cache in (digits.task, gast.data):
        cache.cache_clear()
    yield
    for cache in (digits.task, gast.data):
        cache.cache_clear()


def test_the_command_measures_what_the_record_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(gast, "RATES", gast.RATES[:1])
    monkeypatch.setattr(gast, "SWEPT", 1)
    command_matches(gast.EXPERIMENT, ["--steps", "2", "--width", "16"], tmp_path, capsys)
    command_matches(
        gast.EXPERIMENT, ["--larger", "--steps", "2", "--width", "16"], tmp_path, capsys
    )


def test_wrong_labels_are_the_share_and_the_next_digit() -> None:
    right, wrong = gast.data(0, WIDTH, 0.0), gast.data(0, WIDTH, 0.4)
    off = (wrong.train[1] - right.train[1]) % 10
    assert set(off.tolist()) == {0, 1} and 0.33 < float((off == 1).float().mean()) < 0.47
    assert torch.equal(right.train[0], wrong.train[0])
    assert torch.equal(right.train[1], digits.task(0, WIDTH, gast.DEPTH).train[1])
    for one, two in ((right.clean, wrong.clean), (right.test, wrong.test)):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert [len(s[1]) for s in (wrong.train, wrong.clean, wrong.test)] == [500, 100, 397]
    assert not {tuple(x.tolist()) for x in wrong.clean[0]} & {
        tuple(x.tolist()) for x in wrong.test[0]
    }


def stepped(
    name: str,
) -> tuple[gw.Graft, gw.GAST | None, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """An arm's one step: the graft with its gradients, the batches whose loss was taken."""
    arm, where = gast.ARMS[name], gast.data(0, WIDTH, 0.0)
    model = copy.deepcopy(where.base)
    graft = gw.graft(model, gw.LoRA(2), sites=["0", "2", "4", "6"], seed=0)
    for n, p in graft.named_parameters():
        if n.endswith("B"):
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    layers = (lambda name: "all") if arm.shared else "block"
    chooser = None if arm.rule is None else gw.GAST(graft, gast.KEEP, rule=arm.rule, layers=layers)
    taken = []

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        taken.append((x, y))
        return F.cross_entropy(model(x), y)

    arm.step(graft, chooser, where, torch.Generator().manual_seed(0), loss, 0)
    return graft, chooser, where.clean[0], taken


@pytest.mark.parametrize("name", gast.ARMS)
def test_an_arm_trains_on_what_its_name_says(name: str) -> None:
    graft, chooser, clean, taken = stepped(name)
    known = {tuple(x.tolist()) for x in clean}
    with_gradient = [n.split(".")[0] for n, p in graft.named_parameters() if p.grad is not None]
    assert len(set(with_gradient)) == (2 if name in gast.LAYERS else 4)
    sizes = [len(x) for x, _ in taken]
    assert sizes[-1] == (8 if name == gast.DATA[1] else 16)
    assert sizes[:-1] == ([4] if chooser is not None or name in gast.LAYERS else [])
    if chooser is not None:
        picks = [tuple(c.picked.tolist()) for c in chooser.chosen.values()]
        assert all(len(p) == gast.KEEP for p in picks)
        assert len(picks) == len(set(picks)) == (1 if "one choice" in name else 4)
    if "clean support" in name:
        assert all(tuple(x.tolist()) in known for x in taken[0][0])
    trained = {tuple(x.tolist()) for x in taken[-1][0]}
    assert bool(trained & known) == (name == "all samples, the clean ones too")


def test_half_of_the_layers_keeps_whole_gradients_of_those_it_draws() -> None:
    whole, _, _, _ = stepped(gast.ALL)
    for name in gast.LAYERS:
        graft, _, _, (_, batch) = stepped(name)
        model = graft.model
        loss = F.cross_entropy(model(batch[0]), batch[1])
        grads = torch.autograd.grad(loss, list(graft.parameters()))
        for p, g in zip(graft.parameters(), grads, strict=True):
            assert p.grad is None or torch.allclose(p.grad, g, atol=1e-6)
    assert all(p.grad is not None for p in whole.parameters())


def test_the_verdict_follows_the_rows() -> None:
    rows = validate_record(gast.EXPERIMENT.target).rows

    def names(arm: str, *others: str) -> list[tuple[str, str, str]]:
        return [(case, arm, ratio(gast.ERROR, o)) for case in gast.CASES for o in others]

    ahead = names(gast.GAST, gast.ALL, gast.RANDOM, gast.ONE, gast.LAYERS[0])
    top = names(gast.TOP, gast.GAST)
    best = put(put(rows, 0.9, *ahead), 1.1, *top)
    worst = put(put(rows, 1.1, *ahead), 0.9, *top)
    assert gast.judge(best).startswith("seen: ") and "10 of 10" in gast.judge(best)
    assert gast.judge(worst).startswith("not seen at this scale: ")
    assert gast.judge(put(best, 1.1, ahead[0])).startswith("partly: ")
    assert gast.judge(put(worst, 0.9, ahead[5])).startswith("partly: ")
